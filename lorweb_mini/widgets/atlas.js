const REACH = 14; // pixels around the pointer in which a point is meant

function render({ model, el }) {
  // The crosshair follows the pointer at once, the picture as soon as it is rendered.
  let at = [0, 0], dragging = false;
  const { page, all, send, free, close } = openPage({ model, el }, {
    onState: () => {
      const { cross: { x, y, u, v }, chosen: { highlight } } = model.get("state");
      if (!dragging && free()) at = [x, y];
      cross();
      marks.querySelector(".way").setAttribute("d", `M${x} ${y}L${u} ${v}`);
      marks.querySelector(".landed").setAttribute("cx", u);
      marks.querySelector(".landed").setAttribute("cy", v);
      marks.querySelector(".landed").style.display = Math.hypot(u - x, v - y) > 1 ? "" : "none";
      for (const shape of all(".plane [data-family]"))
        shape.classList.toggle("dim", Boolean(highlight) && shape.dataset.family !== highlight);
    },
    onRest: () => {
      const { x, y } = model.get("state").cross;
      if (!dragging) at = [x, y];
      cross();
    },
  });
  const plane = page.querySelector(".plane"), marks = page.querySelector(".marks");
  const { view, points } = JSON.parse(plane.querySelector("[data-shape]").dataset.shape);
  const cross = () => {
    const [x, y] = at;
    const d = `M${x - 13} ${y}H${x - 4}M${x + 4} ${y}H${x + 13}M${x} ${y - 13}V${y - 4}M${x} ${y + 4}V${y + 13}`;
    for (const name of [".halo", ".cross"]) marks.querySelector(name).setAttribute("d", d);
  };
  const moveTo = (x, y) => {
    const scale = (view.x1 - view.x0) / view.width;
    const inside = (z, low, size) => Math.min(Math.max(z, low), low + size);
    at = [inside(x, view.left, view.width), inside(y, view.top, view.height)];
    cross();
    const place = [view.x0 + (at[0] - view.left) * scale, view.y1 - (at[1] - view.top) * scale];
    send("move", place, { latest: "move" });
  };
  const nearest = (x, y) => {
    let best = -1, least = Infinity;
    points.forEach(([u, v], i) => {
      const apart = Math.hypot(u - x, v - y);
      if (apart < least) [best, least] = [i, apart];
    });
    return [best, least];
  };
  const pixel = (event) => {
    const box = plane.getBoundingClientRect(), scale = plane.offsetWidth / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  };
  let start = null, looked = -1;
  plane.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    start = pixel(event);
    plane.setPointerCapture(event.pointerId);
    plane.focus({ preventScroll: true });
    event.preventDefault();
  });
  plane.addEventListener("pointermove", (event) => {
    const [x, y] = pixel(event);
    if (start && (dragging || Math.hypot(x - start[0], y - start[1]) > 3)) {
      dragging = true;
      moveTo(x, y);
    } else if (!start) {
      const [i, apart] = nearest(x, y);
      if (apart < REACH && i !== looked) send("look", (looked = i), { latest: "look" });
    }
  });
  const end = (event) => {
    if (start && !dragging && event.type === "pointerup") {
      const [i, apart] = nearest(...start);
      if (apart < REACH) send("take", i);
      else moveTo(...start);
    }
    start = null;
    dragging = false;
    looked = -1;
  };
  plane.addEventListener("pointerup", end);
  plane.addEventListener("pointercancel", end);
  plane.addEventListener("keydown", (event) => {
    const arrow = ARROWS[event.key], size = view.width / (event.shiftKey ? 150 : 25);
    if (arrow) moveTo(at[0] + arrow[0] * size, at[1] + arrow[1] * size);
    else if (event.key === "Enter") send("take", nearest(...at)[0]);
    else if (event.key === "Home") send("home");
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  return close;
}
export default { render };
