const PIXELS = 64;
const STROKE = 70; // ms between two parts of a stroke
const MEGABYTE = 1e6;
const SHRINK = 3 * MEGABYTE; // a message above 10 MB would cost the connection to the kernel
const LARGEST = 150 * MEGABYTE;
const SHRUNK = 512; // pixels of the longer side of what is sent instead

async function shrink(file) {
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
}

function render({ model, el }) {
  const onRest = () => {
    const { selected: chosen, more } = model.get("state");
    select(chosen);
    if (more) send("prepare", null, { quiet: true });
  };
  const { page, all, say, send, rove, free, close } = openPage({ model, el }, { onRest });

  // --- which picture is changed, and how

  const panel = page.querySelector(".panel");
  let selected = "b", way = "emoji";
  const select = (slot) => {
    selected = slot;
    for (const button of all("[data-slot]")) button.setAttribute("aria-selected", button.dataset.slot === selected);
    for (const button of all("[data-way]")) button.setAttribute("aria-selected", button.dataset.way === way);
    for (const group of all("[role=tablist]")) rove(group);
    for (const other of all("[data-panel]")) other.hidden = other.dataset.panel !== way;
    panel.setAttribute("aria-label", `change ${selected.replace("_prime", "′")}`);
    const box = page.querySelector(`[data-slot=${selected}]`).getBoundingClientRect();
    panel.style.setProperty("--caret", `${box.left + box.width / 2 - panel.getBoundingClientRect().left}px`);
    refresh();
  };
  const observer = new ResizeObserver(() => select(selected));
  observer.observe(page);
  page.addEventListener("click", (event) => {
    const { slot, way: how, pen } = event.target.closest("button")?.dataset ?? {};
    if (slot) {
      select(slot); // at once, even if no kernel answers
      send("select", slot, { latest: "select" });
    } else if (how) {
      way = how;
      select(selected);
    } else if (pen) ink(pen);
  });

  // --- upload

  const upload = async (file, slot = selected) => {
    const size = `${Math.round(file.size / MEGABYTE)} MB`;
    if (file.size > LARGEST)
      return say(`Nothing was changed. “${file.name}” has ${size}, expected at most ${LARGEST / MEGABYTE} MB.`);
    try {
      const content = file.size > SHRINK ? await shrink(file) : file;
      send("upload", { slot }, { buffers: [await content.arrayBuffer()] });
    } catch {
      say(`Nothing was changed. “${file.name}” (${size}) cannot be read as a picture.`);
    }
  };
  const chooser = page.querySelector("input[type=file]");
  chooser.addEventListener("change", () => {
    if (chooser.files.length) upload(chooser.files[0]);
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
    upload(event.dataTransfer.files[0], place.dataset.slot);
  });

  // --- drawing

  const canvas = page.querySelector("canvas"), context = canvas.getContext("2d");
  const colour = page.querySelector("input[type=color]"), size = page.querySelector("input[name=pen]");
  let stroke = null; // the one being drawn: its points that the kernel does not have yet
  const ink = (value) => {
    colour.value = value;
    for (const button of all("[data-pen]"))
      button.setAttribute("aria-pressed", button.dataset.pen.toLowerCase() === value.toLowerCase());
    rove(page.querySelector(".pens"));
  };
  colour.addEventListener("input", () => ink(colour.value));
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * PIXELS, ((event.clientY - box.top) / box.height) * PIXELS];
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
    const { slot, points, sent } = stroke;
    if (sent && points.length < 2) return;
    send("stroke", { slot, points, colour: colour.value, size: Number(size.value), continued: sent });
    stroke.sent = true;
    stroke.points = points.slice(-1);
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    canvas.setPointerCapture(event.pointerId);
    const timer = setInterval(() => { if (free()) flush(); }, STROKE);
    stroke = { slot: selected, points: [at(event)], sent: false, timer };
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
  let turns = 0;
  const refresh = () => {
    if (stroke || !free()) return; // while the pen is ahead of the kernel, what the pen drew stays
    const picture = new Image(), turn = (turns += 1);
    picture.onload = () => {
      if (stroke || turn !== turns) return;
      context.clearRect(0, 0, PIXELS, PIXELS);
      context.drawImage(picture, 0, 0);
    };
    picture.src = page.querySelector(`[data-slot=${selected}] img`).src;
  };
  ink(colour.value);
  return () => {
    close();
    clearInterval(stroke?.timer);
    observer.disconnect();
  };
}
export default { render };
