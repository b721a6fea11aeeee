// The page of lorweb_mini/microscope.py: it shows the HTML that Python writes and says which button was pressed.
// While an answer is due only the last chosen layer is kept, so nothing queues.
const PATIENCE = 6000; // milliseconds without an answer, then the warning appears

function render({ model, el }) {
  const page = document.createElement("div");
  page.className = "lorweb-microscope";
  page.innerHTML = model.get("frame");
  el.append(page);
  const part = (name) => page.querySelector(`[data-part=${name}]`);
  const warning = page.querySelector(".warning");

  let due = 0; // messages that are not answered yet
  let next = null; // the last layer that was chosen meanwhile
  let timer;
  const silent = () => {
    warning.hidden = false;
    due = 0;
  };
  const send = (ask, value) => {
    if (due && ask === "layer") {
      next = value;
      return;
    }
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
  model.on("msg:custom", (message) => {
    if (!message.answered) return;
    warning.hidden = true;
    due = Math.max(0, due - 1); // an answer may come after patience has ended, or to another page of this microscope
    if (due) return;
    clearTimeout(timer);
    page.ariaBusy = "false";
    if (next === null) return;
    const value = next;
    next = null;
    send("layer", value);
  });

  const options = () => [...page.querySelectorAll("[role=option]")];
  const mark = (layer) => {
    const chosen = model.get("chosen");
    // JupyterLab looks for shortcuts from the focused element upwards, so each of them has to decline.
    for (const other of [page, ...page.querySelectorAll("button")]) other.dataset.lmSuppressShortcuts = "true";
    for (const button of options()) {
      const selected = button.dataset.value === (layer ?? chosen.layer);
      button.ariaSelected = String(selected);
      button.tabIndex = selected ? 0 : -1;
    }
    for (const button of page.querySelectorAll("[data-ask=sweep]"))
      button.ariaPressed = String(button.dataset.value === chosen.sweep);
  };
  const choose = (button) => {
    mark(button.dataset.value); // at once; the pictures follow
    button.focus({ preventScroll: false });
    send("layer", button.dataset.value);
  };
  page.addEventListener("click", (event) => {
    const button = event.target.closest("[data-ask]");
    if (button?.dataset.ask === "layer") choose(button);
    else if (button) send(button.dataset.ask, button.dataset.value);
  });
  page.addEventListener("keydown", (event) => {
    const all = options();
    const here = all.indexOf(event.target);
    const to = { ArrowUp: here - 1, ArrowDown: here + 1, Home: 0, End: all.length - 1 }[event.key];
    if (here < 0 || to === undefined) return;
    choose(all[Math.min(Math.max(to, 0), all.length - 1)]);
    event.preventDefault();
    event.stopPropagation();
  });

  const draw = (name) => {
    const held = part(name).contains(document.activeElement) ? document.activeElement.dataset.value : null;
    part(name).innerHTML = model.get(name);
    mark();
    if (held) part(name).querySelector(`[data-value="${held}"]`)?.focus({ preventScroll: true });
  };
  for (const name of ["heat", "layer", "gates"]) {
    model.on(`change:${name}`, () => draw(name));
    draw(name);
  }
  model.on("change:chosen", () => { if (next === null) mark(); });
  send("alive");
  return () => clearTimeout(timer);
}
export default { render };
