// What the colours of the map say, with a legend; and hexagons where many clips lie on each other.

const NO_CODE = 255;
const NUM_SHADES = 32;
const STEPS_OF_ONE = 200; // of figures from 0 to 1, as the data have them
const MOST_COLOURS = 7;
const HEXAGON = 6; // pixels from its middle to a corner
const CROWDED = 3; // points to a hexagon, from which hexagons are drawn
const FEW_POINTS = 2000; // that are drawn as points anyway

// Okabe and Ito's colours, which people with any colour vision tell apart; of black and yellow the one that shows.
const WORD_COLOURS = ["#e69f00", "#0072b2", "#009e73", "#d55e00", "#cc79a7", "#56b4e9"];
const LAST_COLOUR = { light: "#111111", dark: "#f0e442" };
const OTHER_COLOUR = { light: "#a3a39b", dark: "#6f7673" };
const UNKNOWN_COLOUR = { light: "#d3d1c8", dark: "#3b4240" };
// The scale cividis, which people with any colour vision see alike, without the end that the paper swallows.
const SCALES = {
  light: [[0, 34, 78], [53, 69, 108], [102, 105, 112], [148, 142, 119], [205, 185, 80]],
  dark: [[72, 92, 140], [108, 112, 125], [149, 143, 120], [198, 180, 93], [254, 232, 56]],
};

const schemeName = (dark) => (dark ? "dark" : "light");

/** A colour of the scale, for a share of its length. */
const shade = (share, dark) => {
  const stops = SCALES[schemeName(dark)];
  const at = clamp(share, 0, 1) * (stops.length - 1);
  const first = Math.min(Math.floor(at), stops.length - 2);
  const mix = stops[first].map((low, i) => Math.round(low + (at - first) * (stops[first + 1][i] - low)));
  return `rgb(${mix.join(" ")})`;
};

const wordColour = (code, dark) => {
  if (code === NO_CODE) return UNKNOWN_COLOUR[schemeName(dark)];
  if (code >= MOST_COLOURS) return OTHER_COLOUR[schemeName(dark)];
  return code < WORD_COLOURS.length ? WORD_COLOURS[code] : LAST_COLOUR[schemeName(dark)];
};

const FIGURES = {
  confidence: () => "confidence",
  agreement: () => (app.index.words ? "agreement of the modalities" : "sound–picture agreement"),
  heads: () => "agreement of the heads",
};

const colouring = {
  by: "cluster",
  only: null, // a code that alone is shown in full
  painted: null, // {key, codes, numbers or entries, said}

  /** [[value, words], ...] of the menu. */
  choices() {
    const { clusters } = app.head;
    const isKnown = { confidence: clusters.some((each) => each.confidence !== null), agreement: clusters.some((each) => each.agreement !== null), heads: app.index.heads.length > 1 };
    return [
      ["cluster", "cluster"],
      ...(app.index.labelled ? [["label", "label"]] : []),
      ...Object.keys(FIGURES).filter((name) => isKnown[name]).map((name) => [name, FIGURES[name]()]),
      ...app.index.columns.map((name, i) => [`column ${i}`, name]),
    ];
  },

  /** Read what the points are coloured by; null for clusters. */
  async read(map) {
    const key = `${headName(app.head)} ${this.by}`;
    if (this.by === "cluster") this.painted = null;
    else if (this.painted?.key !== key) this.painted = { key, ...(await this.paint(map)) };
    return this.painted;
  },

  async paint(map) {
    if (this.by === "label") {
      const { labels, numLabels, code } = await load("data/colours-labels.js", "colours/labels");
      const codes = decodeArray(code, Uint8Array);
      return this.paintWords(codes, labels, numLabels, "without a label");
    }
    if (this.by.startsWith("column ")) return this.paintColumn(map, Number(this.by.slice(7)));
    const head = headName(app.head);
    const columns = await load(`data/colours-${head}.js`, `colours/${head}`);
    const steps = columns[this.by] ? decodeArray(columns[this.by], Uint8Array) : new Uint8Array(map.ids.length).fill(NO_CODE);
    return this.paintNumbers(Array.from(steps, (step) => (step === NO_CODE ? null : step / STEPS_OF_ONE)));
  },

  /** Numbers where all cells that say something are numbers, more than there are colours; else words. */
  paintColumn(map, column) {
    const cells = map.ids.map((_, i) => map.texts?.[i]?.[column] ?? null).map((cell) => (cell === null || cell.trim() === "" ? null : cell));
    const known = cells.filter((cell) => cell !== null);
    const distinct = new Set(known);
    const numbers = cells.map((cell) => (cell === null ? null : Number(cell)));
    if (distinct.size > MOST_COLOURS && numbers.every((number) => number === null || Number.isFinite(number))) {
      return this.paintNumbers(numbers);
    }
    const counts = new Map();
    for (const cell of known) counts.set(cell, (counts.get(cell) ?? 0) + 1);
    const labels = [...counts].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)).map(([cell]) => cell);
    const codeOf = new Map(labels.map((cell, code) => [cell, Math.min(code, NO_CODE - 1)]));
    return this.paintWords(Uint8Array.from(cells, (cell) => (cell === null ? NO_CODE : codeOf.get(cell))), labels.slice(0, NO_CODE - 1), labels.length, "without a word");
  },

  paintWords(given, labels, numLabels, without) {
    const codes = given.map((code) => (code === NO_CODE ? code : Math.min(code, MOST_COLOURS)));
    const counts = new Map();
    for (const code of codes) counts.set(code, (counts.get(code) ?? 0) + 1);
    const others = numLabels - MOST_COLOURS;
    const wordsOf = (code) => (code === NO_CODE ? without : code === MOST_COLOURS ? plural(others, "other") : labels[code]);
    const entries = [...counts].sort((a, b) => a[0] - b[0]).map(([code, count]) => ({ code, words: wordsOf(code), count, isOurs: code >= MOST_COLOURS }));
    const said = (i) => (given[i] === NO_CODE ? without : labels[given[i]] ?? "another");
    return { codes, entries, said };
  },

  /** Numbers, or null where there is none; the scale goes from the least to the most of them. */
  paintNumbers(values) {
    const given = values.filter((value) => value !== null);
    const [least, most] = given.length ? [given.reduce((a, b) => Math.min(a, b)), given.reduce((a, b) => Math.max(a, b))] : [0, 1];
    const span = most - least || 1;
    const codes = Uint8Array.from(values, (value) => (value === null ? NO_CODE : Math.min(NUM_SHADES - 1, Math.floor(((value - least) / span) * NUM_SHADES))));
    const unknown = values.reduce((sum, value) => sum + (value === null), 0);
    return { codes, numbers: { least, most, unknown }, said: (i) => (values[i] === null ? "not known" : shortNumber(values[i])) };
  },

  colour(code, dark) {
    if (this.painted.entries || code === NO_CODE) return wordColour(code, dark);
    return shade((code + 0.5) / NUM_SHADES, dark);
  },

  /** What the menu calls the present choice. */
  words() {
    return this.choices().find(([value]) => value === this.by)?.[1] ?? "cluster";
  },

  legend(change) {
    const { painted } = this;
    if (!painted) return null;
    const dark = isDark();
    if (painted.numbers) return this.scale(painted.numbers, dark);
    const point = (entry) => () => {
      this.only = this.only === entry.code ? null : entry.code;
      change();
    };
    const item = (entry) => {
      const dot = make("span", { class: "dot", "aria-hidden": "true" });
      dot.style.background = this.colour(entry.code, dark);
      return make("li", {}, button("", point(entry), { class: "legend-entry", "aria-pressed": String(this.only === entry.code), title: "Show these alone" }, dot, entry.isOurs ? make("span", { class: "quiet" }, entry.words) : userText(entry.words), make("span", { class: "amount" }, grouped(entry.count))));
    };
    return make("ul", { class: "legend-words", role: "list", "aria-label": `Colours: ${this.words()}` }, painted.entries.map(item));
  },

  scale({ least, most, unknown }, dark) {
    const bar = make("span", { class: "scale", "aria-hidden": "true" });
    bar.style.background = `linear-gradient(to right, ${SCALES[schemeName(dark)].map((stop) => `rgb(${stop.join(" ")})`).join(", ")})`;
    return make(
      "div",
      { class: "legend-scale" },
      make("span", { class: "unseen" }, `${this.words()} from `),
      bar,
      make("span", {}, shortNumber(least)),
      make("span", {}, make("span", { class: "unseen" }, " to "), shortNumber(most)),
      unknown ? make("p", { class: "quiet" }, `${plural(unknown, "clip")} not known, in grey`) : null,
    );
  },
};

const shortNumber = (number) => (Number.isInteger(number) ? grouped(number) : number.toLocaleString("en-US", { maximumSignificantDigits: 3 }));

/** The hexagon that a place lies in, counted from the corner of the map: [column, row]. */
const hexagonAt = (x, y) => {
  const [wide, tall] = [HEXAGON * Math.sqrt(3), HEXAGON * 1.5];
  const v = y / tall;
  let row = Math.round(v);
  const u = x / wide - (row & 1) / 2;
  let column = Math.round(u);
  const over = v - row;
  if (Math.abs(over) * 3 > 1) {
    const across = u - column;
    const beside = column + (u < column ? -1 : 1) / 2;
    const next = row + (v < row ? -1 : 1);
    if (Math.hypot(across * wide, over * tall) > Math.hypot((u - beside) * wide, (v - next) * tall)) {
      column = beside + (row & 1 ? 1 : -1) / 2;
      row = next;
    }
  }
  return [column, row];
};

const density = {
  wanted: null, // true or false once somebody has chosen
  most: 0, // clips in the fullest hexagon

  /** Points by hexagon: [{x, y, count, group, sum, known}], where `groups` are [[colour, points, code], ...]; x and y are on the screen. */
  bins(groups, place, toScreen) {
    const [wide, tall] = [HEXAGON * Math.sqrt(3), HEXAGON * 1.5];
    const bins = new Map();
    let seen = 0;
    groups.forEach(([, points, code], group) => {
      const isKnown = code !== undefined && code !== NO_CODE;
      for (const i of points) {
        const [x, y] = toScreen(i, place);
        if (x < -9 || y < -9 || x > place.width + 9 || y > place.height + 9) continue;
        seen += 1;
        const [column, row] = hexagonAt(x - place.left, y - place.top);
        const key = column * 65536 + row;
        let bin = bins.get(key);
        if (!bin) bins.set(key, (bin = { x: place.left + (column + (row & 1) / 2) * wide, y: place.top + row * tall, count: 0, own: 0, best: 0, group, sum: 0, known: 0 }));
        bin.count += 1;
        if (isKnown) [bin.sum, bin.known] = [bin.sum + code, bin.known + 1];
        // Groups come one after another, so the present one's count is enough to know the largest.
        bin.own = bin.last === group ? bin.own + 1 : 1;
        bin.last = group;
        if (bin.own > bin.best) [bin.best, bin.group] = [bin.own, group];
      }
    });
    return { bins: [...bins.values()], seen };
  },

  isCrowded: ({ bins, seen }) => seen > FEW_POINTS && seen > CROWDED * bins.length,

  /** Hexagons in the mean colour of a scale, else in that which most of their clips have; the fuller the stronger. */
  draw(draw, groups, { bins }, fade, dark) {
    this.most = bins.reduce((most, { count }) => Math.max(most, count), 0);
    const corners = [0, 1, 2, 3, 4, 5].map((corner) => (Math.PI / 3) * (corner + 0.5)).map((angle) => [Math.cos(angle) * HEXAGON, Math.sin(angle) * HEXAGON]);
    const isScale = Boolean(colouring.painted?.numbers);
    for (const { x, y, count, group, sum, known } of bins) {
      draw.fillStyle = isScale && known ? colouring.colour(Math.round(sum / known), dark) : groups[group][0];
      draw.globalAlpha = fade * (0.25 + 0.75 * (Math.log(1 + count) / Math.log(1 + this.most)));
      draw.beginPath();
      corners.forEach(([dx, dy]) => draw.lineTo(x + dx, y + dy));
      draw.fill();
    }
    draw.globalAlpha = 1;
  },
};
