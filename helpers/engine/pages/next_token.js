// The probabilities from which the next token is drawn, for any setting of the knobs.

function softmax(logits) {
  const powers = logits.map((logit) => Math.exp(logit - logits[0]));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.map((power) => power / sum);
}

// The logits, greatest first, after the knobs: what `generate` draws from, in its order.
function drawnFrom(logits, { temperature, top_k, top_p, min_p }) {
  let kept = logits.map((logit) => logit / temperature);
  if (top_k > 0 && top_k < kept.length) {
    const last = kept[top_k - 1]; // equals of the last one stay
    kept = kept.filter((logit) => logit >= last);
  }
  if (top_p < 1) {
    const shares = softmax(kept);
    let tail = 0;
    let count = kept.length;
    while (count > 1 && tail + shares[count - 1] <= 1 - top_p) tail += shares[--count];
    kept = kept.slice(0, count);
  }
  if (min_p > 0) {
    const least = kept[0] + Math.log(min_p); // a share of the likeliest token's probability
    kept = kept.filter((logit, place) => place === 0 || logit >= least);
  }
  return softmax(kept);
}

// Logits of single tokens, then [logit, count] of the rest, in one list.
function allLogits(data) {
  const rest = data.rest.flatMap(([logit, count]) => new Array(count).fill(logit));
  return data.logits.concat(rest);
}

const KNOBS = {
  temperature: [0.1, 2, 0.05],
  top_k: [0, 200, 1],
  top_p: [0.01, 1, 0.01],
  min_p: [0, 0.5, 0.01],
};

// How many more tokens can be chosen, one after the other.
function depthOf(node) {
  return node && node.next ? 1 + Math.max(...node.next.map(depthOf)) : 0;
}

// A row of the table; `choose` is what a press of the token does, if it goes on from there.
function row(token, before, after, longest, choose) {
  const name = visible(token);
  const press = { type: "button", onclick: choose, "aria-label": `${name}, go on from here` };
  const bar = (share, kind) =>
    make("div", { class: kind, style: `width:${(100 * share) / longest}%` });
  return make(
    "tr",
    { class: after ? "" : "cut" },
    make("th", { scope: "row", class: "token" }, choose ? make("button", press, name) : name),
    make("td", { class: "number" }, percent(before)),
    make("td", { class: "number" }, after ? percent(after) : "cut off"),
    make(
      "td",
      { class: "share", "aria-hidden": "true" },
      bar(before, "before"),
      ...(after ? [bar(after, "after")] : []),
    ),
  );
}

function show(root, data) {
  const settings = { ...data.settings };
  const chosen = []; // the places of the tokens that were chosen, one after the other
  const text = make("p", { "aria-live": "polite" });
  const said = make("p", { role: "status" });
  const rows = make("tbody");
  let node, logits, before;
  const draw = () => {
    const after = drawnFrom(logits, settings);
    const left = before.slice(0, after.length).reduce((sum, share) => sum + share, 0);
    const counts = [after.length, logits.length].map((count) => count.toLocaleString("en"));
    const cut = logits.length - after.length;
    said.textContent =
      `${counts[0]} of ${counts[1]} tokens can be drawn; without the knobs they have ` +
      `${percent(left)}.` + (cut ? " The others are cut off." : "");
    const longest = Math.max(before[0], after[0]);
    rows.replaceChildren(
      ...node.tokens.map((token, place) => {
        const goesOn = place < after.length && node.next && node.next[place];
        const choose = goesOn && (() => {
          chosen.push(place);
          arrive();
          (rows.querySelector("button") || back).focus();
        });
        return row(token, before[place], after[place], longest, choose);
      }),
    );
  };
  const arrive = () => {
    node = data.tree;
    const tokens = chosen.map((place) => {
      const token = node.tokens[place];
      node = node.next[place];
      return visible(token);
    });
    logits = allLogits(node);
    before = softmax(logits);
    text.replaceChildren("After ", make("q", {}, data.prompt));
    if (tokens.length) text.append(" ", make("b", { class: "token" }, tokens.join("")));
    back.disabled = !tokens.length;
    draw();
  };
  const step = () => {
    const place = chosen.pop();
    arrive();
    (rows.rows[place].querySelector("button") || rows.querySelector("button"))?.focus();
  };
  const back = make("button", { type: "button", onclick: step }, "Step back");
  const knobs = Object.entries(KNOBS).map(([name, range]) => {
    const most = name === "top_k" ? Math.max(range[1], settings[name]) : range[1];
    return slider(name, settings[name], [range[0], most, range[2]], (value) => {
      settings[name] = value;
      draw();
    });
  });
  const heads = ["token", "as it is", "drawn from"].map((name) => make("th", { scope: "col" }, name));
  const table = make("table", {}, make("thead", {}, make("tr", {}, ...heads)), rows);
  table.setAttribute("aria-label", "The likeliest tokens after the text");
  const depth = depthOf(data.tree);
  const most = data.tree.next ? data.tree.next.length : 0;
  const hint =
    `Press a framed token to go on from there. The page holds what may follow the ${most} ` +
    `likeliest tokens, ${depth} deep.`;
  root.append(text, ...(depth ? [make("p", {}, hint, " ", back)] : []));
  root.append(make("div", { class: "knobs" }, ...knobs), said, table);
  arrive();
}
