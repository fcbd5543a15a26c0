"""Windows: this user's SID, owner and access list of a pipe or directory, descriptors. Calls the security API.

A user's SID is the same elevated or not, so everything here compares SIDs. What an elevated process creates by default
belongs to the Administrators, which is why every descriptor names its owner.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import POINTER, byref, c_int, c_ulong, c_ushort, c_void_p, c_wchar_p
from functools import cache

assert sys.platform == "win32"  # noqa: S101 - for the type checker: everything below is Windows

from ctypes import wintypes  # noqa: E402

advapi32 = ctypes.WinDLL("advapi32", use_last_error=True)
kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)

TOKEN_QUERY, TOKEN_USER = 0x0008, 1
SE_FILE_OBJECT, SE_KERNEL_OBJECT = 1, 6
OWNER_AND_DACL = 0x1 | 0x4
ALLOWED = 0
"""ACCESS_ALLOWED_ACE_TYPE."""

EVERYONE = frozenset({"S-1-1-0", "S-1-5-2", "S-1-5-4", "S-1-5-7", "S-1-5-11", "S-1-5-32-545", "S-1-5-32-546"})
"""Everyone, Network, Interactive, Anonymous, Authenticated Users, Users, Guests."""

ADMINISTRATORS = frozenset({"S-1-5-18", "S-1-5-32-544"})
"""The system and its administrators: trusted as owners of directories in a user's profile."""


def _function(dll: ctypes.WinDLL, name: str, result: type | None, *arguments: type) -> ctypes._NamedFuncPointer:
    function: ctypes._NamedFuncPointer = getattr(dll, name)
    function.restype, function.argtypes = result, arguments
    return function


P = POINTER(c_void_p)
_current_process = _function(kernel32, "GetCurrentProcess", c_void_p)
_close = _function(kernel32, "CloseHandle", c_int, c_void_p)
_local_free = _function(kernel32, "LocalFree", c_void_p, c_void_p)
_client_pid = _function(kernel32, "GetNamedPipeClientProcessId", c_int, c_void_p, POINTER(c_ulong))
_server_pid = _function(kernel32, "GetNamedPipeServerProcessId", c_int, c_void_p, POINTER(c_ulong))
_make_directory = _function(kernel32, "CreateDirectoryW", c_int, c_wchar_p, c_void_p)
_open_token = _function(advapi32, "OpenProcessToken", c_int, c_void_p, c_ulong, P)
_token_information = _function(
    advapi32, "GetTokenInformation", c_int, c_void_p, c_int, c_void_p, c_ulong, POINTER(c_ulong)
)
_sid_text = _function(advapi32, "ConvertSidToStringSidW", c_int, c_void_p, P)
_from_text = _function(
    advapi32, "ConvertStringSecurityDescriptorToSecurityDescriptorW", c_int, c_wchar_p, c_ulong, P, c_void_p
)
_of_handle = _function(advapi32, "GetSecurityInfo", c_ulong, c_void_p, c_int, c_ulong, P, P, P, P, P)
_of_name = _function(advapi32, "GetNamedSecurityInfoW", c_ulong, c_wchar_p, c_int, c_ulong, P, P, P, P, P)
_ace = _function(advapi32, "GetAce", c_int, c_void_p, c_ulong, P)


class Attributes(ctypes.Structure):
    """SECURITY_ATTRIBUTES."""

    _fields_ = (("size", wintypes.DWORD), ("descriptor", c_void_p), ("inherit", wintypes.BOOL))


class Access:
    """Owner and allowed SIDs of an object. `allowed` is `None` where it has no access list, which allows everyone."""

    def __init__(self, owner: str, allowed: tuple[str, ...] | None) -> None:
        self.owner, self.allowed = owner, allowed

    @property
    def private(self) -> bool:
        """Whether this user owns it and is the only one in the list."""
        return self.owner == own_sid() and self.allowed == (own_sid(),)

    @property
    def open_to_others(self) -> bool:
        return self.allowed is None or not EVERYONE.isdisjoint(self.allowed)


@cache
def own_sid() -> str:
    """This user's SID, as text. Raises `OSError`."""
    token = c_void_p()
    _check(_open_token(_current_process(), TOKEN_QUERY, byref(token)))
    try:
        size = c_ulong()
        _token_information(token, TOKEN_USER, None, 0, byref(size))
        user = ctypes.create_string_buffer(size.value)
        _check(_token_information(token, TOKEN_USER, user, size, byref(size)))
        return _text(c_void_p.from_buffer(user))
    finally:
        _close(token)


@contextmanager
def private_attributes(label: bool) -> Iterator[int]:
    """The address of security attributes that allow this user only.

    `label`: also deny the user's own programs of low integrity (a browser's sandbox). Raises `OSError`.
    """
    with _attributes(f"O:{own_sid()}D:P(A;;GA;;;{own_sid()})" + ("S:(ML;;NWNRNX;;;ME)" if label else "")) as address:
        yield address


def make_directory(path: str) -> None:
    """Create a directory for this user (and the system and its administrators, as in a profile). Raises `OSError`."""
    rights = "".join(f"(A;OICI;FA;;;{sid})" for sid in (own_sid(), "SY", "BA"))
    with _attributes(f"O:{own_sid()}D:P{rights}") as address:
        _check(_make_directory(path, address))


@contextmanager
def _attributes(sddl: str) -> Iterator[int]:
    descriptor = c_void_p()
    _check(_from_text(sddl, 1, byref(descriptor), None))
    try:
        attributes = Attributes(ctypes.sizeof(Attributes), descriptor, False)
        yield ctypes.addressof(attributes)
    finally:
        _local_free(descriptor)


def access_of_pipe(handle: int) -> Access:
    """Owner and access list of the pipe. Raises `OSError`."""
    return _access(lambda *wanted: int(_of_handle(handle, SE_KERNEL_OBJECT, OWNER_AND_DACL, *wanted)))


def access_of_path(path: str) -> Access:
    """Owner and access list of the file or directory. Raises `OSError`."""
    return _access(lambda *wanted: int(_of_name(path, SE_FILE_OBJECT, OWNER_AND_DACL, *wanted)))


def client_pid(handle: int) -> int | None:
    return _pid(_client_pid, handle)


def server_pid(handle: int) -> int | None:
    return _pid(_server_pid, handle)


def _pid(query: ctypes._NamedFuncPointer, handle: int) -> int | None:
    pid = c_ulong()
    return pid.value if query(handle, byref(pid)) and pid.value else None


def _access(query: Callable[..., int]) -> Access:
    owner, acl, descriptor = c_void_p(), c_void_p(), c_void_p()
    error = query(byref(owner), None, byref(acl), None, byref(descriptor))
    if error:
        raise ctypes.WinError(error)
    try:
        return Access(_text(owner) if owner else "", _allowed(acl.value) if acl else None)
    finally:
        _local_free(descriptor)


def _allowed(acl: int | None) -> tuple[str, ...]:
    """The SIDs of an ACL's allowing entries that apply to the object itself, not only to what is created inside."""
    assert acl is not None  # noqa: S101 - for the type checker
    names = []
    for number in range(c_ushort.from_address(acl + 4).value):  # ACL.AceCount
        entry = c_void_p()
        _check(_ace(acl, number, byref(entry)))
        address = entry.value or 0
        kind, flags = ctypes.c_ubyte.from_address(address).value, ctypes.c_ubyte.from_address(address + 1).value
        if kind == ALLOWED and not flags & 0x08:  # INHERIT_ONLY_ACE
            names.append(_text(c_void_p(address + 8)))
    return tuple(names)


def _text(sid: c_void_p) -> str:
    text = c_void_p()
    _check(_sid_text(sid, byref(text)))
    try:
        return ctypes.wstring_at(text.value or 0)
    finally:
        _local_free(text)


def _check(done: int) -> None:
    if not done:
        raise ctypes.WinError(ctypes.get_last_error())
