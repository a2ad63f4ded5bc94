// How alike two clusters are, in words; the pairs that were told apart; the way from one cluster to another beside it.

const routeToCompare = (one, other) => routeTo(`compare/${one}/${other}`);

/** Pairs of clusters that the person told apart, the last one at the end; kept by the browser. */
const apart = {
  storageKey: () => `selavi.apart.${app.index.key}.${app.head.head}`,
  keyOf: (one, other) => [one, other].sort((a, b) => a - b).join("/"),
  all() {
    return storage.read(this.storageKey()) ?? [];
  },
  has(one, other) {
    return this.all().includes(this.keyOf(one, other));
  },
  add(one, other) {
    storage.write(this.storageKey(), [...this.all().filter((key) => key !== this.keyOf(one, other)), this.keyOf(one, other)]);
  },
  remove(one, other) {
    storage.write(this.storageKey(), this.all().filter((key) => key !== this.keyOf(one, other)));
  },
  removeLast() {
    storage.write(this.storageKey(), this.all().slice(0, -1));
  },
};

const alike = {
  places: new WeakMap(), // of a head's pairs: "one/other" -> place

  /** The pairs of the head shown, or null while nobody has loaded them. */
  pairs: () => received.get(`pairs/${headName(app.head)}`) ?? null,

  async load() {
    const head = headName(app.head);
    return app.head.hasPairs ? load(`data/pairs-${head}.js`, `pairs/${head}`) : null;
  },

  placeOf(pairs, one, other) {
    if (!this.places.has(pairs)) this.places.set(pairs, new Map(pairs.one.map((each, i) => [apart.keyOf(each, pairs.other[i]), i])));
    return this.places.get(pairs).get(apart.keyOf(one, other));
  },

  /** How alike two clusters are, as they were found; null where a figure is not stored. */
  figures(one, other) {
    const near = app.clusters.get(one)?.nearest.find(([each]) => each === other) ?? app.clusters.get(other)?.nearest.find(([each]) => each === one);
    const pairs = this.pairs();
    const place = pairs ? this.placeOf(pairs, one, other) : undefined;
    const at = (column) => (place === undefined ? null : pairs[column]?.[place] ?? null);
    const within = pairs?.within ?? {};
    return { alike: at("alike") ?? near?.[1] ?? null, together: at("together"), within: [within[one] ?? null, within[other] ?? null] };
  },

  /** Both figures in words, a paragraph each. */
  words(one, other) {
    const { alike: cosine, together, within } = this.figures(one, other);
    const lines = [];
    if (cosine !== null) lines.push(["Mean features: ", make("b", {}, decimals(cosine)), ", where 1 is the same direction and 0 or less nothing in common."]);
    if (together !== null)
      lines.push([
        "Other heads: of a clip of each, ", make("b", {}, percent(together)), " of the pairs share a cluster there; ",
        `of two clips of ${one} it is ${percent(within[0])}, of two of ${other} ${percent(within[1])}.`,
      ]);
    if (!lines.length && this.pairs()) lines.push(["The page holds no figure of these two: they are not among each other's nearest."]);
    return lines.map((line) => make("p", {}, line));
  },
};
