// The page of lorweb_mini/atlas.py. Python writes the HTML of each part and draws; this script says where the pointer
// is and which button was pressed. While an answer is due only the last place is kept, so nothing ever queues.
const PATIENCE = 6000; // milliseconds without an answer, then the warning appears
const REACH = 14; // pixels around the pointer in which a point is meant

function render({ model, el }) {
  const page = document.createElement("div");
  page.className = "lorweb-atlas";
  page.innerHTML = model.get("frame");
  el.append(page);
  const part = (name) => page.querySelector(`[data-part=${name}]`);
  const [plane, marks, warning] = [".plane", ".marks", ".warning"].map((name) => page.querySelector(name));

  let due = 0; // messages that are not answered yet
  let next = null; // the last place or look that came meanwhile
  let timer;
  const silent = () => {
    warning.hidden = false;
    due = 0;
  };
  const send = (ask, value) => {
    const small = ask === "move" || ask === "look";
    if (due && small) {
      next = [ask, value];
      return;
    }
    next = null; // a place from before a button was pressed would undo it
    due += 1;
    page.ariaBusy = "true";
    clearTimeout(timer);
    timer = setTimeout(silent, PATIENCE);
    try {
      model.send({ ask, value });
    } catch {
      silent();
    }
  };
  const answered = (message) => {
    if (!message.answered) return;
    warning.hidden = true;
    due = Math.max(0, due - 1); // an answer may come after patience has ended, or to another page of this map
    if (due) return;
    clearTimeout(timer);
    page.ariaBusy = "false";
    if (next) send(...next);
  };
  model.on("msg:custom", answered);

  // The crosshair follows the hand at once, the picture as soon as it is drawn.
  let at = [0, 0];
  let dragging = false;
  const place = ([x, y]) => {
    const view = model.get("view");
    const scale = (view.x1 - view.x0) / view.width;
    return [view.x0 + (x - view.left) * scale, view.y1 - (y - view.top) * scale];
  };
  const cross = () => {
    const [x, y] = at;
    const d = `M${x - 13} ${y}H${x - 4}M${x + 4} ${y}H${x + 13}M${x} ${y - 13}V${y - 4}M${x} ${y + 4}V${y + 13}`;
    for (const name of [".halo", ".cross"]) marks.querySelector(name).setAttribute("d", d);
  };
  const landed = () => {
    const { x, y, u, v } = model.get("cross");
    if (!dragging && !next) at = [x, y];
    cross();
    marks.querySelector(".way").setAttribute("d", `M${x} ${y}L${u} ${v}`);
    marks.querySelector(".landed").setAttribute("cx", u);
    marks.querySelector(".landed").setAttribute("cy", v);
    marks.querySelector(".landed").style.display = Math.hypot(u - x, v - y) > 1 ? "" : "none";
  };
  const moveTo = (x, y) => {
    const view = model.get("view");
    at = [
      Math.min(Math.max(x, view.left), view.left + view.width),
      Math.min(Math.max(y, view.top), view.top + view.height),
    ];
    cross();
    send("move", place(at));
  };
  const nearest = (x, y) => {
    let [best, least] = [-1, Infinity];
    model.get("points").forEach(([u, v], i) => {
      const apart = Math.hypot(u - x, v - y);
      if (apart < least) [best, least] = [i, apart];
    });
    return [best, least];
  };

  const pixel = (event) => {
    const box = plane.getBoundingClientRect();
    const scale = plane.offsetWidth / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  };
  let start = null;
  let looked = -1;
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
      if (apart < REACH && i !== looked) send("look", (looked = i));
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
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const size = model.get("view").width / (event.shiftKey ? 150 : 25);
    if (event.key in steps) moveTo(at[0] + steps[event.key][0] * size, at[1] + steps[event.key][1] * size);
    else if (event.key === "Enter") send("take", nearest(...at)[0]);
    else if (event.key === "Home") send("home");
    else return;
    event.preventDefault();
    event.stopPropagation();
  });

  page.addEventListener("click", (event) => {
    const button = event.target.closest("[data-ask]");
    if (button) send(button.dataset.ask, button.dataset.value);
  });
  page.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const group = event.target.closest("[role=toolbar]");
    if (!step || !group) return;
    const buttons = [...group.querySelectorAll("button")];
    buttons[(buttons.indexOf(event.target) + step + buttons.length) % buttons.length].focus();
    event.preventDefault();
  });

  const mark = () => {
    const chosen = model.get("chosen");
    // JupyterLab looks for shortcuts from the focused element upwards, so each of them has to decline.
    for (const other of [page, plane, ...page.querySelectorAll("button")]) other.dataset.lmSuppressShortcuts = "true";
    for (const group of page.querySelectorAll("[role=toolbar]")) {
      const buttons = [...group.querySelectorAll("button")];
      for (const button of buttons)
        button.setAttribute("aria-pressed", chosen[button.dataset.ask] === button.dataset.value);
      const entry = buttons.find((button) => button.ariaPressed === "true") ?? buttons[0];
      for (const button of buttons) button.tabIndex = button === entry ? 0 : -1;
    }
    for (const drawn of plane.querySelectorAll("[data-family]"))
      drawn.classList.toggle("dim", Boolean(chosen.highlight) && drawn.dataset.family !== chosen.highlight);
  };
  const draw = (name) => {
    const held = part(name).contains(document.activeElement) ? document.activeElement.dataset.ask : null;
    part(name).innerHTML = model.get(name);
    mark();
    if (held) part(name).querySelector(`[data-ask=${held}]`)?.focus({ preventScroll: true });
  };
  for (const name of ["plane", "pictures", "legend", "result", "where", "card"]) {
    model.on(`change:${name}`, () => draw(name));
    draw(name);
  }
  model.on("change:chosen", mark);
  model.on("change:cross", landed);
  landed();
  send("alive");
  return () => clearTimeout(timer);
}
export default { render };
