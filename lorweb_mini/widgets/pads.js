// The page of lorweb_mini/mixer.py: it tells Python which controls were changed and shows the picture that comes back.
// One message is under way at a time. While a picture is being drawn, newer values overwrite each other here, so a
// frame that would come too late is dropped before it is sent.
const PATIENCE = 5000; // milliseconds without an answer after which the page says so
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
  const page = document.createElement("div");
  page.className = "lorweb-mixer";
  page.innerHTML = model.get("frame");
  el.append(page);
  const find = (selector) => [...page.querySelectorAll(selector)];
  // JupyterLab looks for shortcuts from the focused element upwards, so each of them has to decline.
  for (const element of [page, ...find("[data-key], summary, [role=slider]")])
    element.dataset.lmSuppressShortcuts = "true";
  const result = page.querySelector("img[alt=result]"), notice = page.querySelector("[role=alert]");

  const changes = new Map();
  let waiting = false, timer;
  const send = () => {
    if (!changes.size) return;
    waiting = true;
    page.ariaBusy = "true";
    clearTimeout(timer);
    timer = setTimeout(() => { waiting = notice.hidden = false; }, PATIENCE);
    model.send({ changes: [...changes] });
    changes.clear();
  };
  const change = (key, value) => {
    changes.set(key, value);
    if (!waiting) send();
  };
  // What a choice or a button does depends on what came before it, so nothing may overwrite anything here.
  const choose = (key, value) => {
    send();
    changes.set(key, value);
    send();
  };

  const written = (input) => {
    const text = Number(input.value).toFixed(2);
    input.parentElement.querySelector("output").textContent = text;
    input.setAttribute("aria-valuetext", `gain ${text}`);
  };
  for (const control of find("[data-key]")) {
    const { key } = control.dataset;
    if (control.matches("[type=range]"))
      control.addEventListener("input", () => {
        written(control);
        change(key, Number(control.value));
      });
    else if (control.matches("select")) control.addEventListener("change", () => choose(key, control.value));
    else if (control.matches("button")) control.addEventListener("click", () => choose(key, true));
  }

  const pad = page.querySelector(".pad"), handle = page.querySelector("[role=slider]");
  let point = null;
  const place = (to) => {
    point = to;
    handle.style.left = `${100 * to[0]}%`;
    handle.style.top = `${100 * to[1]}%`;
  };
  if (pad) {
    const corners = JSON.parse(pad.dataset.corners), ratio = Number(pad.dataset.ratio);
    const move = (to) => {
      place(nearest(to, corners, ratio));
      change("point", point);
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
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const places = JSON.parse(pad.dataset.places);
    handle.addEventListener("keydown", (event) => {
      const arrow = arrows[event.key], step = event.shiftKey ? STEP / 5 : STEP;
      if (event.ctrlKey || event.altKey || event.metaKey || !(arrow || event.key in places)) return;
      move(arrow ? [point[0] + step * arrow[0], point[1] + step * arrow[1]] : places[event.key]);
      event.preventDefault();
    });
  }

  const show = () => {
    clearTimeout(timer);
    waiting = false;
    notice.hidden = true;
    result.src = model.get("picture");
    const bars = model.get("bars"), values = model.get("values");
    const said = [];
    for (const bar of find("[data-bar]")) {
      const share = bars[bar.dataset.bar], percent = `${Math.round(100 * share)}%`;
      bar.style.setProperty("--share", share);
      bar.lastElementChild.textContent = percent;
      said.push(`${percent} ${bar.dataset.name}`);
    }
    if (handle) {
      handle.setAttribute("aria-valuenow", Math.round(100 * bars["1"]));
      handle.setAttribute("aria-valuetext", said.join(", "));
    }
    if (changes.size) {
      send();
      return;
    }
    page.ariaBusy = "false";
    // Only now are the values of the page and of Python those of the same moment.
    for (const control of find("input[data-key], select[data-key]")) {
      const value = String(values[control.dataset.key]);
      if (control.value === value && control.hasAttribute("aria-valuetext")) continue;
      control.value = value;
      if (control.matches("input")) written(control);
    }
    if (handle) place(values.point);
  };
  model.on("change:drawn", show);
  show();
  return () => {
    clearTimeout(timer);
    model.off("change:drawn", show);
  };
}
export default { render };
