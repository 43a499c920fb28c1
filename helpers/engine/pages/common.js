// Elements and controls that all pages use. Nothing here leaves the page's own element.
function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function visible(token) {
  return token.replaceAll(" ", "␣").replaceAll("\n", "⏎");
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

// A slider with its name and value; `change` receives each new value.
function slider(name, value, [least, most, step], change) {
  const shown = make("output", {}, String(value));
  const input = make("input", { type: "range", min: least, max: most, step, value });
  input.addEventListener("input", () => {
    shown.textContent = input.value;
    change(Number(input.value));
  });
  return make("label", {}, name, input, shown);
}

// A list of choices, [value, text] each.
function choice(name, options, value, change) {
  const list = make("select", { onchange: () => change(list.value) });
  for (const [key, text] of options) list.append(make("option", { value: key }, text));
  list.value = value;
  return make("label", {}, name, list);
}

// Lists of tokens, `parts` of them, of which Tab reaches one: `jump` gives the number of the token
// to which a key leads, and `look` shows a token that has the focus or the pointer.
function tokenList(name, parts, jump, look) {
  const list = make("div", { role: "listbox", "aria-label": name, class: "text" }, ...parts);
  const stops = [...list.querySelectorAll(".stop")];
  let current;
  const choose = (stop) => {
    current?.setAttribute("aria-selected", "false");
    current?.setAttribute("tabindex", "-1");
    stop.setAttribute("aria-selected", "true");
    stop.setAttribute("tabindex", "0");
    current = stop;
    look(stops.indexOf(stop), stops);
  };
  const at = (event) => event.target.closest(".stop");
  for (const kind of ["focusin", "mouseover"]) {
    list.addEventListener(kind, (event) => at(event) && at(event) !== current && choose(at(event)));
  }
  list.addEventListener("keydown", (event) => {
    const stop = stops[jump(event.key, stops.indexOf(current))];
    if (!stop) return;
    event.preventDefault();
    stop.focus();
  });
  if (stops.length) choose(stops[0]);
  return list;
}

// A token in such a list.
function tokenStop(text, name, attributes) {
  const label = { role: "option", "aria-label": name, tabindex: -1, "aria-selected": "false" };
  const shown = text.replaceAll("\n", "⏎");
  return make("span", { ...label, ...attributes, class: `stop ${attributes.class || ""}` }, shown);
}
