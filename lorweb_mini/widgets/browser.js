// The page of lorweb_mini/browser.py: it shows the HTML that Python writes and tells Python which button was pressed.
// The parts are replaced one by one, so the search box keeps its text; a button that had the focus gets it back.
const PATIENCE = 6000; // milliseconds without an answer, then the warning appears

function render({ model, el }) {
  const page = document.createElement("div");
  page.className = "lorweb-browser";
  page.dataset.lmSuppressShortcuts = "true";
  page.innerHTML = model.get("frame");
  el.append(page);

  const warning = page.querySelector(".warning");
  let patience;
  const send = (ask, value) => {
    page.ariaBusy = "true";
    clearTimeout(patience);
    patience = setTimeout(() => { warning.hidden = false; }, PATIENCE);
    try {
      model.send({ ask, value });
    } catch {
      warning.hidden = false;
    }
  };
  model.on("change:heard", () => {
    clearTimeout(patience);
    page.ariaBusy = "false";
    warning.hidden = true;
  });

  const input = page.querySelector("input");
  input.value = model.get("query");
  let timer;
  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => send("search", input.value), 200);
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
    const next = (buttons.indexOf(event.target) + step + buttons.length) % buttons.length;
    buttons[next].focus();
    event.preventDefault();
  });

  const mark = () => {
    const chosen = model.get("chosen");
    for (const button of page.querySelectorAll("[data-ask]")) {
      // JupyterLab looks for shortcuts from the focused element upwards, so each of them has to decline.
      button.dataset.lmSuppressShortcuts = "true";
      if (button.dataset.ask !== "page")
        button.setAttribute("aria-pressed", chosen[button.dataset.ask] === button.dataset.value);
    }
    for (const group of page.querySelectorAll("[role=toolbar]")) {
      const buttons = [...group.querySelectorAll("button")];
      const entry = buttons.find((b) => b.getAttribute("aria-pressed") === "true") ?? buttons[0];
      for (const button of buttons) button.tabIndex = button === entry ? 0 : -1;
    }
  };
  const draw = (part) => {
    const place = page.querySelector(`[data-part=${part}]`);
    const held = place.contains(document.activeElement) ? document.activeElement.dataset : null;
    place.innerHTML = model.get(part);
    mark();
    if (held) {
      const same = [...place.querySelectorAll("[data-ask]:not(:disabled)")];
      const found = same.find((b) => b.dataset.ask === held.ask && b.dataset.value === held.value)
        ?? same.find((b) => b.dataset.ask === held.ask);
      found?.focus({ preventScroll: true });
    }
  };
  for (const part of ["status", "results", "emoji", "pairs"]) {
    model.on(`change:${part}`, () => draw(part));
    draw(part);
  }
  model.on("change:chosen", mark);
  return () => {
    clearTimeout(timer);
    clearTimeout(patience);
  };
}
export default { render };
