// Owns when the page is drawn: each view that has become dirty once, in the next frame, however many updates came
// before it.

const dirty = new Set();
let scheduled = false;

/** Draw `view` (a function without arguments) in the next frame. */
export function paint(view) {
  dirty.add(view);
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(frame);
}

function frame() {
  scheduled = false;
  const views = [...dirty];
  dirty.clear();
  for (const view of views) {
    try {
      view();
    } catch (error) {
      reportError(error); // one broken view must not take the others with it
    }
  }
}

const seconds = new Set();

/** Call `tick` each second: for ages that grow while nothing else changes. */
export function everySecond(tick) {
  if (!seconds.size) setInterval(() => seconds.forEach((each) => each()), 1000);
  seconds.add(tick);
}
