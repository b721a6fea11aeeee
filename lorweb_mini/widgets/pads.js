const STEP = 0.05; // of a pad, an arrow key's

// The point of a convex polygon (corners in a circle) that is nearest to p; distances are those on the screen.
function nearest(p, corners, ratio) {
  let best = null, inside = true;
  corners.forEach((a, i) => {
    const b = corners[(i + 1) % corners.length];
    const [ex, ey, px, py] = [b[0] - a[0], (b[1] - a[1]) * ratio, p[0] - a[0], (p[1] - a[1]) * ratio];
    if (ex * py - ey * px < 0) inside = false;
    const t = Math.min(1, Math.max(0, (ex * px + ey * py) / (ex * ex + ey * ey)));
    const distance = Math.hypot(px - t * ex, py - t * ey);
    if (!best || distance < best.distance)
      best = { distance, point: [a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1])] };
  });
  return inside ? p : best.point;
}

function render({ model, el }) {
  let point = null;
  const place = (to) => {
    point = to;
    handle.style.left = `${100 * to[0]}%`;
    handle.style.top = `${100 * to[1]}%`;
  };
  const { page, send, close } = openPage({ model, el }, {
    onRest: () => place(model.get("state").values.point),
    onState: () => {
      const { bars } = model.get("state");
      const said = Object.entries(bars).map(([k, share]) => `${Math.round(100 * share)}% ${labels[k - 1]}`);
      handle.setAttribute("aria-valuenow", Math.round(100 * bars["1"]));
      handle.setAttribute("aria-valuetext", said.join(", "));
    },
  });
  const pad = page.querySelector(".pad"), handle = page.querySelector("[role=slider]");
  const { corners, ratio, places, labels } = JSON.parse(pad.dataset.shape);
  const move = (to) => {
    place(nearest(to, corners, ratio));
    send("set", ["point", point], { latest: "set point" });
  };
  const follow = (event) => {
    const box = pad.getBoundingClientRect();
    move([(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height]);
  };
  pad.addEventListener("pointerdown", (event) => {
    pad.setPointerCapture(event.pointerId);
    handle.focus({ preventScroll: true });
    follow(event);
    event.preventDefault();
  });
  pad.addEventListener("pointermove", (event) => {
    if (pad.hasPointerCapture(event.pointerId)) follow(event);
  });
  handle.addEventListener("keydown", (event) => {
    const arrow = ARROWS[event.key], step = event.shiftKey ? STEP / 5 : STEP;
    if (event.ctrlKey || event.altKey || event.metaKey || !(arrow || event.key in places)) return;
    move(arrow ? [point[0] + step * arrow[0], point[1] + step * arrow[1]] : places[event.key]);
    event.preventDefault();
  });
  return close;
}
export default { render };
