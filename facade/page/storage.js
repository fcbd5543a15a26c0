// Owns what the browser keeps for this page: `tab` for the life of the tab, `browser` for good. Where the site's storage
// is blocked (reading it throws), values are held in memory and last as long as the page.

function area(name) {
  const memory = new Map();
  const storage = () => globalThis[name];
  return {
    get(key) {
      try {
        return storage().getItem(key) ?? memory.get(key) ?? null;
      } catch {
        return memory.get(key) ?? null;
      }
    },
    set(key, value) {
      memory.set(key, value);
      try {
        storage().setItem(key, value);
      } catch {
        // blocked or full: the value is in memory
      }
    },
  };
}

export const tab = area('sessionStorage');
export const browser = area('localStorage');
