// Blocks with their words, and beside them the mask of one: which token may look at which.
const OF = ["0 114 178", "194 118 10", "0 158 115", "200 96 155", "139 111 209", "154 106 47"];

// The parts of a block, one for each document in it, with their places in the block.
function partsOf(row) {
  const parts = [];
  for (let i = 0, place = 0; i < row.length; place += row[i + 1], i += 4) {
    const [first, length, document, begins] = row.slice(i, i + 4);
    parts.push({ first, length, document, begins, place });
  }
  return parts;
}

// A staircase for each part: its tokens look at those before them, and at themselves.
function maskPath(parts) {
  const stairs = ({ place, length }) => `M${place} ${place}${"h1v1".repeat(length)}H${place}z`;
  return parts.map(stairs).join("");
}

function draw(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function show(root, data) {
  const state = { size: data.start[0], strategy: data.start[1], first: 1, rows: 2 };
  const said = make("p", { role: "status" });
  const place = make("div", { class: "beside" });
  const word = (token) => data.words[data.tokens[token]];
  const isEnd = (token) => data.ids[data.tokens[token]] === data.end;
  const way = () =>
    data.ways.find(({ size, strategy }) => size === state.size && strategy === state.strategy);

  // The mask of a block, with the row of one of its tokens, and what it says.
  const mask = (panel, list, { number, parts, part, offset }, before) => {
    const length = parts.reduce((sum, one) => sum + one.length, 0);
    const at = part.place + offset;
    const token = part.first + offset;
    const seen = offset + 1;
    const lengths = parts.map((one) => one.length).join(", ");
    const name =
      `Mask of block ${number}: a triangle for each document in it, of ${lengths} tokens; ` +
      "nothing between them.";
    const line = Math.max(1, length / 90);
    panel.replaceChildren(
      draw(
        "svg",
        { viewBox: `0 0 ${length} ${length}`, role: "img", "aria-label": name },
        draw("path", { d: maskPath(parts), fill: "var(--mark)", "fill-opacity": 0.55 }),
        draw("rect", { x: part.place, y: at, width: seen, height: line, fill: "var(--worse)" }),
      ),
      make("small", {}, "row: the token that looks; column: the token that is looked at"),
      make(
        "p",
        {},
        make("b", { class: "token" }, isEnd(token) ? "end of text" : visible(word(token))),
        `, id ${data.ids[data.tokens[token]]}: place ${at + 1} of ${length} in block ${number}, ` +
          `position ${offset}. It looks at ${seen} token${seen > 1 ? "s" : ""} of document ` +
          `${part.document + 1}` +
          (part.begins ? ", which begins here" : ", whose start is in another block") +
          (parts.length > 1 ? `, and at no other of the ${parts.length} in the block.` : "."),
      ),
    );
    before.splice(0).forEach((stop) => stop.classList.remove("seen"));
    before.push(...list.slice(0, seen));
    before.forEach((stop) => stop.classList.add("seen"));
  };

  const redraw = () => {
    const { blocks, filled, cut, rows } = way();
    state.first = Math.min(state.first, rows.length);
    const shown = rows.slice(state.first - 1, state.first - 1 + state.rows);
    said.textContent =
      `${blocks.toLocaleString("en")} blocks, ${percent(filled)} of their places filled, ` +
      `${cut.toLocaleString("en")} documents cut. The first ${rows.length} are here.`;
    const looks = []; // for each token: its block, its part and where in that it is
    const groups = shown.map((row, i) => {
      const number = state.first + i;
      const parts = partsOf(row);
      const stops = parts.flatMap((part) =>
        Array.from({ length: part.length }, (_, offset) => {
          looks.push({ number, parts, part, offset });
          const end = isEnd(part.first + offset);
          const text = end ? "end" : word(part.first + offset);
          const style = `--of: ${OF[part.document % OF.length]}`;
          const name = `${end ? "end of text" : text}, position ${offset}`;
          return tokenStop(text, name, { class: end ? "of end" : "of", style });
        }),
      );
      const name = make("b", { "aria-hidden": "true" }, `block ${number}`);
      const labels = { role: "group", "aria-label": `block ${number}`, class: "block" };
      return make("div", labels, name, ...stops);
    });
    const panel = make("div", { class: "mask" });
    const before = [];
    // Up and down lead to the same place of the block above or below.
    const jump = (key, now) => {
      const { number, part, offset } = looks[now];
      const start = now - part.place - offset;
      const length = looks.filter((look) => look.number === number).length;
      const beside = (other, from) => {
        const count = looks.filter((look) => look.number === other).length;
        return count ? from(count) + Math.min(now - start, count - 1) : undefined;
      };
      return {
        ArrowLeft: now - 1,
        ArrowRight: now + 1,
        Home: start,
        End: start + length - 1,
        ArrowUp: beside(number - 1, (count) => start - count),
        ArrowDown: beside(number + 1, () => start + length),
      }[key];
    };
    const list = tokenList("Tokens of the blocks", groups, jump, (now, stops) => {
      mask(panel, stops.slice(now - looks[now].offset), looks[now], before);
    });
    place.replaceChildren(list, panel);
  };

  const first = make("span");
  const choose = (name, value) => {
    state[name] = value;
    state.first = 1;
    const most = way().rows.length;
    first.replaceChildren(
      slider("first block", 1, [1, most, 1], (number) => {
        state.first = number;
        redraw();
      }),
    );
    redraw();
  };
  const choices = (name) => [...new Set(data.ways.map((one) => one[name]))].map((v) => [v, v]);
  const knobs = [
    choice("block_size", choices("size"), state.size, (size) => choose("size", Number(size))),
    choice("strategy", choices("strategy"), state.strategy, (name) => choose("strategy", name)),
    first,
    slider("blocks shown", state.rows, [1, 8, 1], (rows) => {
      state.rows = rows;
      redraw();
    }),
  ];
  root.append(make("div", { class: "knobs" }, ...knobs), said, place);
  choose("size", state.size);
}
