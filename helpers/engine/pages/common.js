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
