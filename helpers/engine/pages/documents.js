// Documents in a list; of the chosen one every token, coloured by how surprised a model was.
const STRONGEST = [10, 4]; // nats, and their difference, from which on a colour gets no stronger

// How strong a colour is, from 0 to 0.8, so that letters can be read on it.
function shade(value, strongest) {
  return (0.8 * Math.min(Math.abs(value) / strongest, 1)).toFixed(2);
}

// The token that a key leads to: left and right go by token, up and down by word.
function nextToken(key, now, tokens) {
  const starts = tokens.map((_, i) => i).filter((i) => i === 0 || /^\s/.test(tokens[i]));
  return {
    ArrowLeft: now - 1,
    ArrowRight: now + 1,
    ArrowUp: starts.findLast((start) => start < now),
    ArrowDown: starts.find((start) => start > now),
    Home: 0,
    End: tokens.length - 1,
  }[key];
}

// The columns of the list: a name, and the value of a document.
function columnsOf(models) {
  const [base, tuned] = models;
  return [
    ["tokens", (one) => one.count],
    [base, (one) => one.loss[0]],
    [tuned, (one) => one.loss[1]],
    ["gain", (one) => one.loss[0] - one.loss[1]],
  ];
}

function show(root, data) {
  const columns = columnsOf(data.models);
  const views = [...data.models, "difference"];
  const state = { by: 3, down: true, chosen: undefined, view: "difference" };
  const textsOf = (places) => places.map((place) => data.words[place]);
  const number = (value) => (Number.isInteger(value) ? value.toLocaleString("en") : value.toFixed(2).replace("-", "−"));

  const list = make("table", { class: "documents" });
  const drawList = () => {
    const value = columns[state.by][1];
    const sorted = [...data.documents].sort((a, b) => (value(b) - value(a)) * (state.down ? 1 : -1));
    state.chosen ??= sorted[0];
    const heads = columns.map(([name], i) => {
      const order = i !== state.by ? undefined : state.down ? "descending" : "ascending";
      const sort = () => {
        Object.assign(state, { by: i, down: i !== state.by || !state.down });
        drawList();
        list.querySelectorAll("thead button")[i].focus();
      };
      const mark = { descending: " ▼", ascending: " ▲" }[order] || "";
      const button = make("button", { onclick: sort, type: "button" }, name);
      return make("th", { scope: "col", class: "number", "aria-sort": order }, button, mark);
    });
    const rows = sorted.map((one) => {
      const open = () => {
        state.chosen = one;
        list.querySelectorAll("tbody tr").forEach((row, i) => mark(row, sorted[i]));
        drawMap();
      };
      const start = textsOf(one.tokens.slice(0, 16)).join("").replace(/\s+\S*$/, "");
      const button = make("button", { onclick: open, type: "button" }, `${start} …`);
      const cells = columns.map(([, of]) => make("td", { class: "number" }, number(of(one))));
      return mark(make("tr", {}, make("td", { class: "start" }, button), ...cells), one);
    });
    const head = make("tr", {}, make("th", { scope: "col" }, "document"), ...heads);
    list.replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
  };
  const mark = (row, one) => {
    row.className = one === state.chosen ? "chosen" : "";
    row.querySelector("button").setAttribute("aria-pressed", String(one === state.chosen));
    return row;
  };

  const hint = make("small", { class: "hint" });
  const map = make("div", { class: "beside" });
  const word = make("div", { class: "word" });
  const legend = make("span", { class: "legend" });
  const valueAt = (i) => {
    const [base, tuned] = state.chosen.nats.map((nats) => nats[i] / 100);
    return { [data.models[0]]: base, [data.models[1]]: tuned }[state.view] ?? base - tuned;
  };
  const strongest = () => STRONGEST[Number(state.view === "difference")];
  const colour = (element, value) => {
    element.style.setProperty("--share", shade(value, strongest()));
    element.classList.toggle("worse", value < 0);
    return element;
  };
  const drawColours = () => {
    map.querySelectorAll(".stop").forEach((stop, i) => colour(stop, valueAt(i)));
    const most = strongest();
    const steps = state.view === "difference" ? [-most, -most / 2, 0, most / 2, most] : [0, 5, most];
    const sample = (value) => colour(make("span", {}, `${value}`.replace("-", "−")), value);
    const said = state.view === "difference" ? ["got harder ", " nats easier"] : ["", " nats"];
    legend.replaceChildren(said[0], ...steps.map(sample), said[1]);
  };
  const drawWord = (i) => {
    const { tokens, nats, likeliest, shares } = state.chosen;
    const row = (name, cells) =>
      make("tr", {}, make("th", { scope: "row" }, name), ...cells.map((cell) => make("td", {}, cell)));
    const guess = (model, rank) => {
      const [token, share] = [likeliest, shares].map((values) => values[model][5 * i + rank]);
      const tag = token === tokens[i] ? "b" : "span";
      const name = make(tag, { class: "token" }, visible(data.words[token]));
      return make("span", {}, name, ` ${share || "<1"} %`);
    };
    const models = [0, 1];
    const chance = (model) => percent(Math.exp(-nats[model][i] / 100));
    const heads = data.models.map((name) => make("th", { scope: "col" }, name));
    const body = [
      row("nats", models.map((model) => (nats[model][i] / 100).toFixed(2))),
      row("probability", models.map(chance)),
      ...[0, 1, 2, 3, 4].map((rank) =>
        row(`guess ${rank + 1}`, models.map((model) => guess(model, rank))),
      ),
    ];
    word.replaceChildren(
      make("p", {}, "Token ", make("b", { class: "token" }, visible(data.words[tokens[i]]))),
      make("table", {}, make("thead", {}, make("tr", {}, make("td"), ...heads)), make("tbody", {}, ...body)),
    );
  };
  const drawMap = () => {
    const { tokens, count, nats } = state.chosen;
    const texts = textsOf(tokens);
    const stops = texts.map((text, i) => {
      const [base, tuned] = nats.map((values) => (values[i] / 100).toFixed(2));
      const name = `${text}: ${data.models[0]} ${base}, ${data.models[1]} ${tuned} nats`;
      return tokenStop(text, name, {});
    });
    const jump = (key, now) => nextToken(key, now, texts);
    const shown = tokenList("Tokens of the document", stops, jump, drawWord);
    shown.classList.add("heat");
    hint.textContent =
      (tokens.length < count ? `The first ${tokens.length} of ${count} tokens. ` : "") +
      "The keys left and right go by token, up and down by word." +
      (texts.join("").includes("�") ? " � is a part of a character." : "");
    map.replaceChildren(shown, word);
    drawColours();
  };

  const buttons = views.map((view) => {
    const change = () => {
      state.view = view;
      drawColours();
    };
    const checked = view === state.view && "checked";
    const radio = make("input", { type: "radio", name: "view", checked, onchange: change });
    return make("label", {}, radio, ` ${view}`);
  });
  const form = make("form", { "aria-label": "What the colours show" }, ...buttons, legend);
  root.append(list, form, hint, map);
  drawList();
  drawMap();
}
