// The page of lorweb_mini/explorer.py: it shows what Python writes and tells Python what was asked for. Of its own it
// knows which picture and which way of changing it is selected, what the pen draws until Python has drawn it too, and
// whether Python answers at all.
const SIDE = 64;
const PATIENCE = 6000; // ms without an answer before the page says so
const STROKE = 70; // ms between two parts of a stroke
const MEGABYTE = 1e6;
const SHRINK = 3 * MEGABYTE; // a message above 10 MB would cost the connection to the kernel
const LARGEST = 150 * MEGABYTE;
const SHRUNK = 512; // pixels of the longer side of what is sent instead

function render({ model, el }) {
  const page = document.createElement("div");
  page.className = "lorweb-explorer";
  page.dataset.lmSuppressShortcuts = "true";
  page.innerHTML = model.get("frame");
  el.append(page);
  const all = (selector) => [...page.querySelectorAll(selector)];
  const part = (name) => page.querySelector(`[data-part=${name}]`);

  // --- to Python

  const view = Math.random().toString(36).slice(2);
  let sent = 0, heard = 0, patience = null;
  const wait = () => {
    clearTimeout(patience);
    patience = heard < sent ? setTimeout(() => page.classList.add("silent"), PATIENCE) : null;
  };
  const send = (message, buffers) => {
    sent += 1;
    if (!patience) wait();
    try {
      model.send({ ...message, id: `${view}:${sent}` }, undefined, buffers);
    } catch {
      page.classList.add("silent");
    }
  };
  const say = (text) => { part("message").textContent = text; };
  model.on("change:heard", () => {
    const [whose, number] = model.get("heard").split(":");
    if (whose !== view) return;
    heard = Number(number);
    page.classList.remove("silent");
    wait();
    say(model.get("message"));
    settings();
    refresh();
  });

  // --- which picture, and how it is changed

  const selected = () => model.get("selected");
  const controls = page.querySelector(".controls");
  let way = "emoji";
  const tab = (button, chosen) => {
    button.setAttribute("aria-selected", chosen);
    button.tabIndex = chosen ? 0 : -1;
  };
  const select = () => {
    for (const button of all("[data-slot]")) tab(button, button.dataset.slot === selected());
    for (const button of all("[data-way]")) tab(button, button.dataset.way === way);
    for (const panel of all("[data-panel]")) panel.hidden = panel.dataset.panel !== way;
    controls.setAttribute("aria-label", `change ${selected().replace("_prime", "′")}`);
    point();
    refresh();
  };
  const point = () => {
    const button = page.querySelector(`[data-slot=${selected()}]`).getBoundingClientRect();
    const middle = button.left + button.width / 2 - controls.getBoundingClientRect().left;
    controls.style.setProperty("--caret", `${middle}px`);
  };
  model.on("change:selected", select);
  const observer = new ResizeObserver(point);
  observer.observe(page);

  page.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const { ask, value, slot, way: how, pen: colour } = button.dataset;
    if (slot) {
      model.set("selected", slot);
      model.save_changes();
      select();
    } else if (how) {
      way = how;
      select();
    } else if (colour) {
      ink(colour);
    } else if (ask === "random") {
      send({ ask, value: page.querySelector("select").value });
    } else if (ask) {
      send({ ask, value, slot: selected() });
    }
  });
  page.addEventListener("keydown", (event) => {
    const group = event.target.closest("[role=toolbar], [role=tablist]");
    const held = event.target.closest("button");
    if (!group || !held || !event.key.startsWith("Arrow")) return;
    const buttons = [...group.querySelectorAll("button:not(:disabled)")];
    const at = buttons.indexOf(held);
    let next = buttons[(at + { ArrowLeft: -1, ArrowRight: 1 }[event.key] + buttons.length) % buttons.length];
    if (event.key === "ArrowUp" || event.key === "ArrowDown") {
      const away = event.key === "ArrowDown" ? 1 : -1;
      const rows = buttons.filter((b) => away * (b.offsetTop - held.offsetTop) > 4);
      const far = (b) => Math.abs(b.offsetTop - held.offsetTop) * 1000 + Math.abs(b.offsetLeft - held.offsetLeft);
      next = rows.sort((one, other) => far(one) - far(other))[0];
      if (group.getAttribute("role") === "tablist") return;
    }
    event.preventDefault();
    next?.focus();
    if (group.getAttribute("role") === "tablist") next?.click();
  });

  // --- text and numbers

  const box = page.querySelector("input[type=search]");
  let typing;
  box.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => send({ ask: "search", value: box.value }), 200);
  });
  for (const input of all("input[type=number]")) {
    const set = () => {
      if (input.value !== String(model.get("settings")[input.name])) send({ ask: input.name, value: input.value });
    };
    input.addEventListener("change", set);
    input.addEventListener("keydown", (event) => { if (event.key === "Enter") set(); });
  }
  const settings = () => {
    const values = model.get("settings");
    for (const input of all("input[type=number]")) input.value = values[input.name] ?? "";
  };

  // --- upload

  const shrink = async (file) => {
    const bitmap = await createImageBitmap(file);
    const scale = Math.min(1, SHRUNK / Math.max(bitmap.width, bitmap.height));
    const small = document.createElement("canvas");
    small.width = Math.max(1, Math.round(bitmap.width * scale));
    small.height = Math.max(1, Math.round(bitmap.height * scale));
    const to = small.getContext("2d");
    to.imageSmoothingQuality = "high";
    to.drawImage(bitmap, 0, 0, small.width, small.height);
    bitmap.close();
    return new Promise((done, fail) => small.toBlob((blob) => (blob ? done(blob) : fail()), "image/png"));
  };
  const upload = async (slot, file) => {
    const size = `${Math.round(file.size / MEGABYTE)} MB`;
    if (file.size > LARGEST) {
      say(`The pictures stay as they are. “${file.name}” has ${size}, expected at most ${LARGEST / MEGABYTE} MB.`);
      return;
    }
    try {
      const content = file.size > SHRINK ? await shrink(file) : file;
      send({ ask: "upload", slot }, [await content.arrayBuffer()]);
    } catch {
      say(`The pictures stay as they are. “${file.name}” (${size}) cannot be read as a picture.`);
    }
  };
  const chooser = page.querySelector("input[type=file]");
  chooser.addEventListener("change", () => {
    if (chooser.files.length) upload(selected(), chooser.files[0]);
    chooser.value = ""; // so that the same file can be chosen again
  });
  const target = (event) => event.target.closest("[data-slot], .drop");
  page.addEventListener("dragover", (event) => {
    if (!target(event)) return;
    event.preventDefault();
    event.stopPropagation();
  });
  page.addEventListener("drop", (event) => {
    const place = target(event);
    if (!place || !event.dataTransfer.files.length) return;
    event.preventDefault();
    event.stopPropagation();
    upload(place.dataset.slot ?? selected(), event.dataTransfer.files[0]);
  });

  // --- drawing

  const canvas = page.querySelector("canvas");
  const context = canvas.getContext("2d");
  const colour = page.querySelector("input[type=color]");
  const size = page.querySelector("input[name=pen]");
  let stroke = null; // the one being drawn: its slot, its points that Python does not have yet
  const ink = (value) => {
    colour.value = value;
    for (const button of all("[data-pen]"))
      button.setAttribute("aria-pressed", button.dataset.pen.toLowerCase() === value.toLowerCase());
    roving();
  };
  colour.addEventListener("input", () => ink(colour.value));
  size.addEventListener("input", () => { size.nextElementSibling.value = size.value; });
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * SIDE, ((event.clientY - box.top) / box.height) * SIDE];
  };
  const trace = (points) => {
    context.strokeStyle = colour.value;
    context.lineWidth = Number(size.value);
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    context.moveTo(...points[0]);
    for (const point of points) context.lineTo(...point);
    context.stroke();
  };
  const flush = () => {
    if (stroke.sent && stroke.points.length < 2) return;
    const { slot, points } = stroke;
    send({ ask: "stroke", slot, points, colour: colour.value, size: Number(size.value), continued: stroke.sent });
    stroke.sent = true;
    stroke.points = points.slice(-1);
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    canvas.setPointerCapture(event.pointerId);
    stroke = { slot: selected(), points: [at(event)], sent: false, timer: setInterval(flush, STROKE) };
    trace(stroke.points);
    event.preventDefault();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!stroke) return;
    const seen = event.getCoalescedEvents?.() ?? [];
    const fresh = (seen.length ? seen : [event]).map(at);
    trace([stroke.points.at(-1), ...fresh]);
    stroke.points.push(...fresh);
  });
  for (const end of ["pointerup", "pointercancel"])
    canvas.addEventListener(end, () => {
      if (!stroke) return;
      clearInterval(stroke.timer);
      flush();
      stroke = null;
    });
  let shownLast = 0;
  const refresh = () => {
    // While the pen is ahead of Python, what the pen drew stays.
    if (stroke || heard < sent) return;
    const picture = new Image();
    const turn = (shownLast += 1);
    picture.onload = () => {
      if (stroke || turn !== shownLast) return;
      context.clearRect(0, 0, SIDE, SIDE);
      context.drawImage(picture, 0, 0);
    };
    picture.src = model.get("shown")[selected()];
  };

  // --- from Python

  // One button of a group is in the order of the Tab key, the arrow keys reach the others.
  const roving = () => {
    for (const button of all("button, input, select, canvas"))
      // JupyterLab looks for shortcuts from the focused element upwards, so each of them has to decline.
      button.dataset.lmSuppressShortcuts = "true";
    for (const group of all("[role=toolbar]")) {
      const buttons = [...group.querySelectorAll("button")];
      const entry = buttons.find((b) => b.getAttribute("aria-pressed") === "true") ?? buttons[0];
      for (const button of buttons) button.tabIndex = button === entry ? 0 : -1;
    }
  };
  const mark = () => {
    const chosen = model.get("chosen");
    for (const button of all("[data-ask=emoji], [data-ask=style]"))
      button.setAttribute("aria-pressed", chosen[button.dataset.ask] === button.dataset.value);
    roving();
  };
  const pictures = () => {
    const sources = model.get("shown"), captions = model.get("captions");
    for (const place of all("[data-shown]")) {
      const name = place.dataset.shown, caption = captions[name] ?? "";
      const image = place.querySelector("img");
      place.hidden = !sources[name];
      if (sources[name] && image.src !== sources[name]) image.src = sources[name];
      image.alt = `${place.querySelector("b").textContent}: ${caption.replace("\n", ", ")}`;
      place.querySelector("small, figcaption").textContent = caption;
    }
    refresh();
  };
  const draw = (name) => {
    const place = part(name);
    const held = place.contains(document.activeElement) ? document.activeElement.dataset : null;
    place.innerHTML = model.get(name);
    mark();
    if (held) {
      const same = [...place.querySelectorAll("[data-ask]:not(:disabled)")];
      const found = same.find((b) => b.dataset.ask === held.ask && b.dataset.value === held.value)
        ?? same.find((b) => b.dataset.ask === held.ask);
      found?.focus({ preventScroll: true });
    }
  };
  for (const name of ["status", "results", "mixture", "neighbours"]) {
    model.on(`change:${name}`, () => draw(name));
    draw(name);
  }
  const tell = (name, show) => {
    model.on(`change:${name}`, show);
    show();
  };
  tell("title", () => { part("title").textContent = model.get("title"); });
  tell("message", () => say(model.get("message")));
  tell("chosen", mark);
  tell("settings", settings);
  tell("shown", pictures);
  tell("captions", pictures);
  tell("busy", () => {
    page.querySelector(".result").setAttribute("aria-busy", model.get("busy"));
  });
  ink(colour.value);
  select();
  send({ ask: "hello" });
  return () => {
    clearTimeout(patience);
    clearTimeout(typing);
    if (stroke) clearInterval(stroke.timer);
    observer.disconnect();
  };
}
export default { render };
