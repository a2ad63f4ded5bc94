// Two clusters side by side: their figures, labels and words, clips of each, and whether they are the same.

const CLIPS_COMPARED = 6;
const WORDS_COMPARED = 8;
const LEAST_DIFFERENCE = 0.1; // of the shares of clips that have a word

const compareView = {
  show(one, other) {
    this.pair = [one, other];
    this.state = make("div", { class: "state", role: "status" });
    this.buttons = make("div", { class: "pair-actions" });
    this.alike = make("div", { class: "pair-figures" });
    this.labels = make("div");
    this.words = make("div");
    this.sides = make("div", { class: "sides" }, this.pair.map((cluster) => this.side(cluster)));
    const element = make(
      "div",
      { class: "compare-view" },
      make(
        "header",
        {},
        make("p", { class: "crumbs" }, make("a", { href: routeTo("") }, "All clusters"), app.head.hasPairs ? make("a", { href: routeTo("pairs") }, "Clusters that look alike") : null),
        make("h1", { id: "title", tabIndex: -1 }, `Clusters ${one} and ${other}`),
      ),
      this.buttons,
      this.state,
      this.alike,
      make("div", { class: "differences" }, this.facts(), this.labels, this.words),
      this.sides,
    );
    rove(this.sides, "button.tile");
    this.refresh();
    this.fill(element);
    return element;
  },

  /** What comes with files of its own: the figures of the pair, the labels, the clips. */
  async fill(element) {
    const isShown = () => element.isConnected;
    try {
      await alike.load();
      if (isShown()) fillWith(this.alike, alike.words(...this.pair));
      const parts = await Promise.all(this.pair.map((cluster) => (indexView.entry(cluster).parts ? loadPart(cluster, 0) : null)));
      if (!isShown()) return;
      parts.forEach((part, i) => part && this.fillSide(i, part));
      if (parts.every(Boolean)) fillWith(this.words, this.wordTable(parts));
      await this.fillLabels(isShown);
    } catch (error) {
      if (isShown()) addTo(element, fault(error.message));
    }
  },

  /** What edits change. */
  refresh() {
    const overlay = names.overlay();
    const [one, other] = this.pair;
    const finals = this.pair.map(overlay.final);
    const [isOne, isApart] = [finals[0] === finals[1], apart.has(...finals)];
    const hadFocus = this.buttons.contains(document.activeElement);
    fillWith(this.buttons,
      isOne ? null : button("Same (y)", () => this.answer(true), { class: "primary", title: "Merge them (y)", "aria-keyshortcuts": "y" }),
      isOne || isApart ? null : button("Different (n)", () => this.answer(false), { title: "Keep them apart (n)", "aria-keyshortcuts": "n" }),
      app.index.words || app.index.pictures ? null : button("Hear both", () => this.hear(), { title: "p", "aria-keyshortcuts": "p" }, icon("play"), "Hear both"),
    );
    if (hadFocus) byId("title").focus();
    fillWith(this.state,
      isOne ? make("p", { class: "fate-note" }, `They are one cluster, ${spoken(finals[0])}. `, button("Undo the last edit", () => names.undo(), { class: "link" })) : null,
      isApart && !isOne ? make("p", { class: "fate-note" }, "You keep them apart: no queue asks again. ", button("Ask again", () => this.askAgain(), { class: "link" })) : null,
      this.pair.filter((cluster) => overlay.rejected(cluster)).map((cluster) => make("p", { class: "fate-note" }, `Cluster ${cluster} is rejected.`)),
    );
    for (const cluster of [one, other]) {
      const name = overlay.nameOf(cluster);
      const entry = indexView.entry(cluster);
      fillWith(this.sides.querySelector(`#compared-${cluster}`), this.heading(cluster, name || entry.suggestion || "unnamed", Boolean(name)));
    }
    refreshTiles();
  },

  heading: (cluster, words, isGiven) => [make("a", { href: routeToCluster(cluster) }, String(cluster)), " ", userText(words, isGiven ? "given" : "suggested")],

  answer(isSame) {
    const overlay = names.overlay();
    const finals = this.pair.map(overlay.final);
    if (isSame) {
      edits.join(finals);
      return;
    }
    if (finals[0] === finals[1]) {
      say("They are one cluster: undo that first.");
      return;
    }
    apart.add(...finals);
    this.refresh();
    say("You keep them apart.", ["Undo", () => this.askAgain()]);
  },

  askAgain() {
    apart.remove(...this.pair.map(names.overlay().final));
    hush();
    if (route.view === "compare") this.refresh();
    byId("title").focus();
  },

  hear() {
    player.listenAll(shownTiles);
  },

  facts() {
    const entries = this.pair.map((cluster) => indexView.entry(cluster));
    const row = (words, show) => {
      const values = entries.map(show);
      return values.every((value) => value === null) ? null : make("tr", {}, make("th", { scope: "row" }, words), values.map((value) => make("td", { class: "amount" }, value ?? "–")));
    };
    const figure = (name) => (entry) => (entry[name] === null ? null : decimals(entry[name]));
    return this.table("Figures", [
      row("Clips", (entry) => grouped(entry.size)),
      row("Confidence", figure("confidence")),
      row(app.index.words ? "Modalities agree" : "Sound and picture agree", figure("agreement")),
      row("Purity", (entry) => (entry.purity === null ? null : percent(entry.purity))),
      row("Entropy of labels, nats", figure("entropy")),
      row("With a label", (entry) => (entry.numLabelled ? percent(entry.numLabelled / Math.max(1, entry.size)) : null)),
    ]);
  },

  table(title, rows, note = null) {
    const id = `differences-${title.split(" ")[0].toLowerCase()}`;
    return make(
      "section",
      { class: "block", "aria-labelledby": id },
      make("h2", { id }, title),
      make(
        "table",
        {},
        make("thead", {}, make("tr", {}, make("td"), this.pair.map((cluster) => make("th", { scope: "col", class: "amount" }, String(cluster))))),
        make("tbody", {}, rows),
      ),
      note ? make("p", { class: "quiet" }, note) : null,
    );
  },

  /** A row with the share of either cluster's clips. */
  shareRow(text, shares) {
    return make("tr", {}, make("th", { scope: "row" }, userText(text)), shares.map((share) => make("td", { class: "amount" }, share === 0 ? "–" : percent(share), meter(share))));
  },

  async fillLabels(isShown) {
    if (!app.index.labelled) return;
    const head = headName(app.head);
    const { labels, clusters, counts } = await load(`data/labels-${head}.js`, `labels/${head}`);
    if (!isShown()) return;
    const shares = new Map();
    this.pair.forEach((cluster, side) => {
      const column = clusters.indexOf(cluster);
      const total = Math.max(1, indexView.entry(cluster).numLabelled);
      for (const [label, place, count] of counts) {
        if (place !== column) continue;
        if (!shares.has(label)) shares.set(label, [0, 0]);
        shares.get(label)[side] = count / total;
      }
    });
    const most = [...shares].sort(([, a], [, b]) => Math.max(...b) - Math.max(...a)).slice(0, WORDS_COMPARED);
    const common = [...shares.values()].reduce((sum, [one, other]) => sum + Math.min(one, other), 0);
    const note = `Of the labelled clips of each; ${percent(common)} of their labels are in common.`;
    fillWith(this.labels, most.length ? this.table("Labels", most.map(([label, each]) => this.shareRow(labels[label], each)), note) : null);
  },

  /** Words of file names and texts that one of both has more often, of the clips in the first file of either. */
  wordTable(parts) {
    const shares = parts.map(sharesOfWords);
    const words = new Set(shares.flatMap((each) => [...each.keys()]));
    const both = [...words].map((word) => [word, shares.map((each) => each.get(word) ?? 0)]);
    const different = both.filter(([, [one, other]]) => Math.abs(one - other) >= LEAST_DIFFERENCE);
    different.sort(([, a], [, b]) => Math.abs(b[0] - b[1]) - Math.abs(a[0] - a[1]));
    if (!different.length) return null;
    const isAll = this.pair.every((cluster, i) => parts[i].id.length === indexView.entry(cluster).size);
    const where = app.index.columns.length ? "file names and texts" : "file names";
    const note = `Of the clips whose ${where} have the word${isAll ? "" : `; the ${grouped(Math.max(...parts.map((part) => part.id.length)))} most confident clips at most`}.`;
    return this.table("Words that differ", different.slice(0, WORDS_COMPARED).map(([word, each]) => this.shareRow(word, each)), note);
  },

  side(cluster) {
    return make(
      "section",
      { class: "row", "aria-labelledby": `compared-${cluster}` },
      make("div", { class: "row-head" }, make("h2", { id: `compared-${cluster}` }, String(cluster))),
      make("div", { class: "compared" }),
    );
  },

  fillSide(i, part) {
    const cluster = this.pair[i];
    const usual = indexView.entry(cluster).labels[0]?.[0] ?? null;
    const rows = ROWS.map(([key, words, hint]) => {
      const clips = part.rows[key].slice(0, CLIPS_COMPARED).map((index) => clipInRows(part, index, cluster));
      if (!clips.length) return null;
      const grid = tileGrid(clips.map((clip) => new Tile(clip, usual)), `${words}: cluster ${cluster}`);
      return [make("h3", {}, words, make("span", { class: "quiet" }, ` ${hint}`)), grid];
    });
    fillWith(this.sides.children[i].querySelector(".compared"), rows);
  },
};

/** Which share of the clips of a data file have each word of three letters or more: of the path and the texts. */
const sharesOfWords = (part) => {
  const counts = new Map();
  part.path.forEach((path, i) => {
    const text = [path.replace(/\.[A-Za-z0-9]{1,5}$/, ""), ...(part.texts?.[i] ?? []).filter(Boolean)].join(" ");
    const words = text.toLowerCase().split(/[^\p{L}]+/u).filter((word) => [...word].length >= 3);
    for (const word of new Set(words)) counts.set(word, (counts.get(word) ?? 0) + 1);
  });
  return new Map([...counts].map(([word, count]) => [word, count / part.path.length]));
};
