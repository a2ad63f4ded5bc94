// A queue of clusters that look alike: are these two the same?  Answered by y and n, in the order that one chooses.

const CLIPS_OF_A_SIDE = 6;
const ORDERS = {
  alike: ["mean features", "the most alike first"],
  tree: ["the merge tree", "as the merge tree joins them, from its leaves up"],
  heads: ["the other heads", "those that the other heads tell apart least first"],
};

const pairsView = {
  order: null, // a key of ORDERS that was chosen
  pair: null,

  /** The orders that this head has data for. */
  orders() {
    const pairs = alike.pairs();
    const has = {
      alike: app.head.clusters.some(({ nearest }) => nearest.length),
      tree: Boolean(pairs?.tree),
      heads: Boolean(pairs?.together),
    };
    return Object.keys(ORDERS).filter((name) => has[name]);
  },

  chosenOrder() {
    const orders = this.orders();
    return orders.includes(this.order) ? this.order : orders[0];
  },

  /** Pairs of clusters as they were found, in the order chosen: [[one, other, figure], ...]. */
  candidates() {
    const order = this.chosenOrder();
    if (order === "alike") {
      const pairs = app.head.clusters.flatMap(({ cluster, nearest }) => nearest.map(([other, cosine]) => [...[cluster, other].sort((a, b) => a - b), cosine]));
      return pairs.sort((a, b) => b[2] - a[2] || a[0] - b[0] || a[1] - b[1]);
    }
    const pairs = alike.pairs();
    if (order === "tree") return pairs.tree.map((place, i) => [pairs.one[place], pairs.other[place], pairs.joined[i]]);
    if (order !== "heads") return [];
    const found = pairs.one.map((one, i) => [one, pairs.other[i], this.untold(pairs, i)]).filter(([, , figure]) => figure > 0);
    return found.sort((a, b) => b[2] - a[2] || a[0] - b[0] || a[1] - b[1]);
  },

  /** How little the other heads tell the clusters of a pair apart: 1 where they do not at all. */
  untold(pairs, i) {
    const most = Math.sqrt(pairs.within[pairs.one[i]] * pairs.within[pairs.other[i]]);
    return most > 0 ? pairs.together[i] / most : 0;
  },

  /** Pairs of what the clusters are merged into now, that nobody has decided on, with what stands for them. */
  waiting() {
    const overlay = names.overlay();
    const told = new Set(apart.all());
    const pairs = new Map();
    for (const [first, second, figure] of this.candidates()) {
      const [one, two] = [overlay.final(first), overlay.final(second)].sort((a, b) => a - b);
      const key = apart.keyOf(one, two);
      if (one === two || told.has(key) || overlay.rejected(one) || overlay.rejected(two) || pairs.has(key)) continue;
      pairs.set(key, [one, two, figure, first, second]);
    }
    return [...pairs.values()];
  },

  show() {
    this.words = make("p", { class: "lede", role: "status" });
    this.figures = make("div", { class: "pair-figures" });
    this.choice = make("div", { class: "pair-order" });
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
      this.choice,
      this.buttons,
      this.figures,
      this.sides,
    );
    rove(this.sides, "button.tile");
    this.pair = null;
    this.order ??= storage.read("selavi.pairs");
    this.refresh();
    this.loadFigures(element);
    return element;
  },

  /** The other orders and figures come with a file of their own. */
  async loadFigures(element) {
    try {
      await alike.load();
      if (element.isConnected) this.refresh();
    } catch (error) {
      addTo(element, fault(error.message));
    }
  },

  showOrders() {
    const orders = this.orders();
    const shown = `${headName(app.head)} ${orders.join()}`;
    if (this.choice.dataset.orders === shown && this.choice.firstChild) return;
    this.choice.dataset.orders = shown;
    const choice = make("select", { autocomplete: "off" }, orders.map((value) => make("option", { value, selected: value === this.chosenOrder() }, ORDERS[value][0])));
    choice.addEventListener("change", () => {
      this.order = choice.value;
      storage.write("selavi.pairs", this.order);
      this.refresh();
    });
    fillWith(this.choice, orders.length > 1 ? make("label", { class: "field" }, make("span", {}, "In the order of"), choice) : null);
  },

  /** The next pair, where an answer or an edit has changed which one that is. */
  refresh() {
    this.showOrders();
    const waiting = this.waiting();
    const [next] = waiting;
    const order = ORDERS[this.chosenOrder()];
    this.words.textContent = next
      ? `${plural(waiting.length, "pair")} left, ${order[1]}.`
      : "No pair is left: each cluster and its nearest ones are merged or told apart.";
    this.buttons.querySelectorAll("button").forEach((each, place) => (each.hidden = place < 3 && !next));
    this.buttons.lastChild.hidden = !apart.all().length;
    fillWith(this.figures, next ? this.figureWords(next) : null);
    if (next?.slice(0, 2).join() === this.pair?.slice(0, 2).join()) return;
    this.pair = next ?? null;
    forgetTiles();
    fillWith(this.sides, ...(next ? next.slice(0, 2).map((cluster) => this.side(cluster)) : []));
  },

  /** What is known of the pair; where clusters are merged already, of the two that brought it here. */
  figureWords([one, two, figure, first, second]) {
    const merged = [first, second].sort((a, b) => a - b).join() !== [one, two].join();
    return [
      merged ? make("p", {}, `Of ${first} and ${second}, which are merged into these:`) : null,
      alike.words(first, second),
      this.chosenOrder() === "tree" ? make("p", {}, "The merge tree joins their groups at a mean of ", make("b", {}, decimals(figure)), ".") : null,
      make("p", {}, make("a", { href: routeToCompare(one, two) }, "See all of both, side by side")),
    ];
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
    apart.add(one, other);
    this.refresh();
  },

  forget() {
    apart.removeLast();
    this.refresh();
  },
};
