// A queue of clusters that look alike: are these two the same?  Those most alike come first, answered by y and n.

const CLIPS_OF_A_SIDE = 6;

const pairsView = {
  apart: [], // keys of pairs that somebody told apart, the last one at the end
  pair: null,

  storageKey: () => `selavi.apart.${app.index.key}.${app.head.head}`,

  /** Pairs of what the clusters are merged into now, that nobody has decided on: [[one, other, similarity], ...]. */
  waiting() {
    const overlay = names.overlay();
    const apart = new Set(this.apart);
    const pairs = new Map();
    for (const { cluster, nearest } of app.head.clusters)
      for (const [other, similarity] of nearest) {
        const [one, two] = [overlay.final(cluster), overlay.final(other)].sort((a, b) => a - b);
        const key = `${one}/${two}`;
        if (one === two || apart.has(key) || overlay.rejected(one) || overlay.rejected(two)) continue;
        if (!(pairs.get(key)?.[2] >= similarity)) pairs.set(key, [one, two, similarity]);
      }
    return [...pairs.values()].sort((a, b) => b[2] - a[2] || a[0] - b[0] || a[1] - b[1]);
  },

  show() {
    this.apart = storage.read(this.storageKey()) ?? [];
    this.words = make("p", { class: "lede", role: "status" });
    this.sides = make("div", { class: "sides" });
    this.buttons = make(
      "div",
      { class: "pair-actions" },
      button("Same (y)", () => this.answer(true), { class: "primary", title: "Merge them (y)", "aria-keyshortcuts": "y" }),
      button("Different (n)", () => this.answer(false), { title: "Keep them apart (n)", "aria-keyshortcuts": "n" }),
      button("Hear both", () => player.listenAll(shownTiles), { title: "p", "aria-keyshortcuts": "p" }, icon("play"), "Hear both"),
      button("Ask again", () => this.forget(), { class: "quiet-button", title: "Take back the last “different” (b)", "aria-keyshortcuts": "b" }, "Take back the last “different”"),
    );
    const element = make(
      "div",
      { class: "pairs-view" },
      make("header", {}, make("h1", { id: "title", tabIndex: -1 }, "Are these two the same?"), this.words),
      this.buttons,
      this.sides,
    );
    rove(this.sides, "button.tile");
    this.pair = null;
    this.refresh();
    return element;
  },

  /** The next pair, where an answer or an edit has changed which one that is. */
  refresh() {
    const waiting = this.waiting();
    const [next] = waiting;
    this.words.textContent = next
      ? `${plural(waiting.length, "pair")} left, the most alike first. These two: ${decimals(next[2])}, where 1 means equal mean features.`
      : "No pair is left: each cluster and its nearest ones are merged or told apart.";
    this.buttons.querySelectorAll("button").forEach((each, place) => (each.hidden = place < 3 && !next));
    this.buttons.lastChild.hidden = !this.apart.length;
    if (next?.join() === this.pair?.join()) return;
    this.pair = next ?? null;
    forgetTiles();
    fillWith(this.sides, ...(next ? next.slice(0, 2).map((cluster) => this.side(cluster)) : []));
  },

  side(cluster) {
    const overlay = names.overlay();
    const entry = indexView.entry(cluster);
    const name = overlay.nameOf(cluster);
    const place = make("div");
    this.fill(place, entry);
    return make(
      "section",
      { class: "row", "aria-labelledby": `side-${cluster}` },
      make(
        "div",
        { class: "row-head" },
        make("h2", { id: `side-${cluster}` }, make("a", { href: routeToCluster(cluster) }, String(cluster)), " ", userText(name || entry.suggestion || "unnamed", name ? "given" : "suggested")),
        make("p", { class: "quiet" }, plural(overlay.sizeOf(cluster), "clip")),
      ),
      place,
    );
  },

  async fill(place, entry) {
    try {
      const { cluster, parts } = entry;
      const part = parts ? await loadPart(cluster, 0) : null;
      if (!part || !place.isConnected) return;
      const clips = part.rows.typical.slice(0, CLIPS_OF_A_SIDE).map((index) => clipInRows(part, index, cluster));
      fillWith(place, tileGrid(clips.map((clip) => new Tile(clip, entry.labels[0]?.[0] ?? null)), `Typical clips of cluster ${cluster}`));
    } catch (error) {
      fillWith(place, fault(error.message));
    }
  },

  answer(isSame) {
    if (!this.pair) return;
    const [one, other] = this.pair;
    if (isSame) {
      edits.join([one, other]);
      return;
    }
    this.apart.push(`${one}/${other}`);
    storage.write(this.storageKey(), this.apart);
    this.refresh();
  },

  forget() {
    this.apart.pop();
    storage.write(this.storageKey(), this.apart);
    this.refresh();
  },
};
