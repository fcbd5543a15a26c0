// Owns the choice of system, light or dark. A classic script in the head: the choice is applied before the first paint.
// Dispatches `themechange` on the window when the colours change.

(() => {
  const KEY = 'ibkr.theme';
  const root = document.documentElement;
  const dark = matchMedia('(prefers-color-scheme: dark)');
  let choice = null;
  try {
    choice = localStorage.getItem(KEY);
  } catch {
    // blocked storage: the system's theme
  }

  function apply() {
    if (choice === 'light' || choice === 'dark') root.dataset.theme = choice;
    else delete root.dataset.theme;
    root.classList.toggle('dark-mode', choice === 'dark' || (choice !== 'light' && dark.matches));
    dispatchEvent(new Event('themechange'));
  }

  apply();
  dark.addEventListener('change', apply);
  addEventListener('DOMContentLoaded', () => {
    const select = document.getElementById('theme');
    if (!select) return;
    select.value = root.dataset.theme ?? 'system';
    select.addEventListener('change', () => {
      choice = select.value;
      try {
        localStorage.setItem(KEY, choice);
      } catch {
        // blocked storage: the choice lasts as long as the page
      }
      apply();
    });
  });
})();
