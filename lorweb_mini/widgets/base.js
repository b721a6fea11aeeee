// The page's side of every widget: its parts, the messages to the kernel, keyboard, busy state. base.py is the other
// side; NAME.js of a widget follows below this file and adds what only that widget needs.
const PATIENCE = 6000; // milliseconds without an answer, then the page says so
const SILENT = "No answer from the kernel: it is busy or has stopped. Run this cell again to bring it back.";
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const GROUPS = "[role=toolbar], [role=tablist], [role=listbox]";

// onState is called after each change of the state, onRest when all messages are answered, so that page and kernel
// agree: then controls, pressed buttons and the like are set to what the kernel says.
function openPage({ model, el }, { onState = () => {}, onRest = () => {} } = {}) {
  const page = document.createElement("div");
  page.className = `lorweb lorweb-${model.get("name")}`;
  page.innerHTML = `<p class="alert" role="alert" hidden></p>${model.get("frame")}`;
  el.append(page);
  const all = (selector) => [...page.querySelectorAll(selector)];
  const part = (name) => page.querySelector(`[data-part=${name}]`);
  const alert = page.querySelector(".alert");
  const say = (text) => {
    alert.textContent = text;
    alert.hidden = !text;
  };

  // --- messages: one at a time, in order; a newer value replaces the one of the same control that waits last

  const view = Math.random().toString(36).slice(2);
  const queue = [];
  let count = 0, waiting = null, timer;
  const next = () => {
    if (waiting) return;
    if (!queue.length) {
      page.ariaBusy = "false";
      return rest();
    }
    const { buffers, quiet, latest, ...message } = queue.shift();
    waiting = `${view}:${(count += 1)}`;
    const silent = () => {
      waiting = null;
      say(SILENT);
    };
    clearTimeout(timer);
    timer = setTimeout(silent, PATIENCE);
    if (!quiet) page.ariaBusy = "true";
    try {
      model.send({ ...message, id: waiting }, undefined, buffers);
    } catch {
      silent();
    }
  };
  const send = (ask, value, { latest = "", quiet = false, buffers } = {}) => {
    if (latest && queue.at(-1)?.latest === latest) queue.pop();
    queue.push({ ask, value, latest, quiet, buffers });
    next();
  };
  model.on("change:answered", () => {
    const { id, error } = model.get("answered");
    if (!id.startsWith(`${view}:`)) return;
    say(error);
    if (id === waiting) {
      clearTimeout(timer);
      waiting = null;
    }
    next();
  });
  const free = () => !waiting && !queue.length;

  // --- what the kernel wrote

  const rove = (group, entry) => {
    const buttons = [...group.querySelectorAll("button:not(:disabled)")];
    entry ??= buttons.find((b) => (b.getAttribute("aria-pressed") ?? b.getAttribute("aria-selected")) === "true");
    for (const button of buttons) button.tabIndex = button === (entry ?? buttons[0]) ? 0 : -1;
  };
  const mark = (root = page) => {
    const { chosen = {} } = model.get("state");
    for (const button of root.querySelectorAll("button[data-ask]")) {
      const { ask, value } = button.dataset;
      const attribute = button.getAttribute("role") === "option" ? "aria-selected" : "aria-pressed";
      if (ask in chosen) button.setAttribute(attribute, chosen[ask] === value);
    }
    // JupyterLab looks for shortcuts from the focused element upwards, so each of them has to decline.
    for (const element of [page, ...root.querySelectorAll("button, input, select, canvas, summary, [tabindex]")])
      element.dataset.lmSuppressShortcuts = "true";
    root.querySelectorAll(GROUPS).forEach((group) => rove(group));
  };
  const readout = (input) => {
    const output = input.parentElement.querySelector("output");
    if (!output) return;
    output.textContent = Number(input.value).toFixed(input.dataset.digits ?? 0);
    input.setAttribute("aria-valuetext", `${input.dataset.unit ?? ""} ${output.textContent}`.trim());
  };
  const show = () => {
    const { bars = {} } = model.get("state");
    for (const bar of all("[data-bar]")) {
      const share = bars[bar.dataset.bar] ?? 0;
      bar.style.setProperty("--share", share);
      bar.lastElementChild.textContent = `${Math.round(100 * share)}%`;
    }
    onState();
    if (free()) rest();
  };
  const rest = () => {
    const { values = {} } = model.get("state");
    mark();
    for (const input of all("[data-set]")) {
      const value = String(values[input.dataset.set]);
      if (input.value !== value) input.value = value;
      readout(input);
    }
    onRest();
  };
  const draw = (name) => {
    const place = part(name);
    const held = place.contains(document.activeElement) ? { ...document.activeElement.dataset } : null;
    place.innerHTML = model.get(`part_${name}`);
    mark(place);
    if (!held) return;
    const alike = [...place.querySelectorAll("button:not(:disabled)")].filter((b) => b.dataset.ask === held.ask);
    const same = (b) => b.dataset.value === held.value && b.dataset.slot === held.slot;
    (alike.find(same) ?? alike[0])?.focus({ preventScroll: true });
  };

  // --- what the user does

  page.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-ask]");
    if (!button) return;
    const { ask, value } = button.dataset;
    const list = button.closest("[role=listbox]");
    // Selected at once, whatever the selection changes follows.
    for (const option of list?.querySelectorAll("[role=option]") ?? [])
      option.setAttribute("aria-selected", option === button);
    if (list) rove(list, button);
    send(ask, value, { latest: list ? ask : "" });
  });
  page.addEventListener("input", ({ target }) => {
    const { set, ask } = target.dataset;
    if (target.type === "range") readout(target);
    if (set && target.type === "range") send("set", [set, Number(target.value)], { latest: `set ${set}` });
    if (ask) send(ask, target.value, { latest: ask });
  });
  const commit = ({ type, value, dataset: { set } }) => {
    if (set && type !== "range") send("set", [set, value]);
  };
  page.addEventListener("change", ({ target }) => commit(target));
  page.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.target.type === "number") commit(event.target);
    const held = event.target.closest("button"), group = held?.closest(GROUPS);
    if (!group) return;
    const role = group.getAttribute("role"), buttons = [...group.querySelectorAll("button:not(:disabled)")];
    const at = buttons.indexOf(held), last = buttons.length - 1;
    let to;
    if (role === "listbox") {
      const index = { ArrowUp: at - 1, ArrowDown: at + 1, Home: 0, End: last }[event.key];
      to = index === undefined ? undefined : buttons[Math.min(Math.max(index, 0), last)];
    } else if (event.key === "ArrowLeft") to = buttons.at(at - 1);
    else if (event.key === "ArrowRight") to = buttons[at === last ? 0 : at + 1];
    else if (role === "toolbar" && ["ArrowUp", "ArrowDown"].includes(event.key)) {
      const way = event.key === "ArrowDown" ? 1 : -1;
      const far = (b) => Math.abs(b.offsetTop - held.offsetTop) * 1000 + Math.abs(b.offsetLeft - held.offsetLeft);
      [to] = buttons.filter((b) => way * (b.offsetTop - held.offsetTop) > 4).sort((x, y) => far(x) - far(y));
    }
    if (!to) return;
    event.preventDefault();
    event.stopPropagation();
    to.focus();
    if (role !== "toolbar") to.click();
  });

  for (const name of model.get("part_names")) {
    model.on(`change:part_${name}`, () => draw(name));
    draw(name);
  }
  for (const box of all("[type=search]")) box.value = model.get("state").query ?? "";
  model.on("change:state", show);
  queueMicrotask(show); // after the widget's own script has run
  return { page, all, part, say, send, mark, rove, free, close: () => clearTimeout(timer) };
}
