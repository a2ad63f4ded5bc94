// The index: every cluster as a card, the skyline above them, search, order and filters.

const SORTS = {
  size: { words: "size", value: (cluster) => names.overlay().sizeOf(cluster.cluster), down: true },
  confidence: { words: "confidence", value: (cluster) => cluster.confidence, down: true },
  agreement: { get words() { return app.index.words ? "agreement of the modalities" : "sound–picture agreement"; }, value: (cluster) => cluster.agreement, down: true },
  purity: { words: "purity", value: (cluster) => cluster.purity, down: true },
  entropy: { words: "entropy of labels", value: (cluster) => cluster.entropy, down: false },
  number: { words: "number", value: (cluster) => cluster.cluster, down: false },
  name: { words: "name", value: (cluster) => names.overlay().nameOf(cluster.cluster).toLowerCase() || "\uffff", down: false },
};
const FILTERS = {
  all: ["all clusters", () => true],
  unnamed: ["not named yet", (cluster, overlay) => !overlay.nameOf(cluster) && !overlay.rejected(cluster) && overlay.into(cluster) === null],
  named: ["named", (cluster, overlay) => Boolean(overlay.nameOf(cluster))],
  changed: ["merged or split off", (cluster, overlay) => overlay.into(cluster) !== null || overlay.mergedInto(cluster).length > 0 || overlay.arrivals(cluster).length > 0],
  rejected: ["rejected", (cluster, overlay) => overlay.rejected(cluster)],
};
const CARDS_AT_ONCE = 200;
const WIDEST_BAR = 44;

const indexView = {
  sort: "size",
  down: true,
  filter: "all",
  label: "",
  query: "",
  scroll: 0,
  element: null,
  picked: new Set(), // clusters that are selected

  /** A cluster as the index lists it; one that was split off in the page has no figures. */
  entry(cluster) {
    return (
      app.clusters.get(cluster) ?? {
        cluster, size: 0, confidence: null, agreement: null, purity: null, entropy: null, labels: [], numLabelled: 0,
        suggestion: null, nearest: [], cover: [], parts: 0, created: true,
      }
    );
  },

  listed() {
    const overlay = names.overlay();
    const fits = FILTERS[this.filter][1];
    const query = this.query.trim().toLowerCase();
    const number = query.replace(/^#/, "");
    const entries = allClusters().map((cluster) => this.entry(cluster));
    const exact = entries.some((entry) => String(entry.cluster) === number);
    const found = (entry) => {
      if (!query) return true;
      if (exact) return String(entry.cluster) === number;
      const texts = [overlay.nameOf(entry.cluster), entry.suggestion ?? "", ...entry.labels.map(([label]) => label)];
      return texts.some((text) => text.toLowerCase().includes(query));
    };
    const { value } = SORTS[this.sort];
    const direction = this.down ? -1 : 1;
    const compare = (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === y) return a.cluster - b.cluster;
      if (x === null) return 1; // unknown comes last either way
      if (y === null) return -1;
      return (x < y ? -1 : 1) * direction;
    };
    const shown = entries.filter(
      (entry) => found(entry) && fits(entry.cluster, overlay) && (!this.label || entry.labels[0]?.[0] === this.label),
    );
    return { entries: entries.sort(compare), shown: new Set(shown.map((entry) => entry.cluster)) };
  },

  show() {
    if (!this.element || this.head !== app.head) this.build();
    this.head = app.head;
    this.refresh();
    return this.element;
  },

  build() {
    this.lede = make("p", { class: "lede" });
    this.progress = make("p", { class: "progress-words" });
    this.meter = make("span", { class: "meter-fill" });
    this.guide = make("p", { class: "guide" });
    this.skyline = make("canvas", { class: "skyline", "aria-hidden": "true" });
    this.tip = make("p", { class: "tip", hidden: true, "aria-hidden": "true" });
    this.axis = make("p", { class: "axis" });
    this.count = make("p", { class: "count", role: "status" });
    this.cards = make("ol", { class: "cards", "data-grid": "", "aria-label": "Clusters" });
    this.hits = make("div", { class: "hits" });
    this.more = make("div", { class: "more" });
    this.bar = make("section", { class: "picked-bar", "aria-label": "Selected clusters", hidden: true });
    this.picked.clear();
    const { index } = app;
    this.element = make(
      "div",
      { class: "index-view" },
      make(
        "header",
        { class: "masthead" },
        make(
          "div",
          { class: "intro" },
          make("h1", { tabIndex: -1 }, userText(index.title)),
          this.lede,
          index.figures.length
            ? make("dl", { class: "figures" }, index.figures.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))))
            : null,
        ),
        make(
          "div",
          { class: "overview" },
          make("div", { class: "progress" }, this.progress, make("span", { class: "meter", "aria-hidden": "true" }, this.meter)),
          this.guide,
          make("div", { class: "skyline-place" }, this.skyline, this.tip),
          this.axis,
        ),
      ),
      index.mediaWarning ? make("p", { class: "media-warning" }, icon("warning"), make("span", {}, userText(index.mediaWarning))) : null,
      this.toolbar(),
      this.hits,
      this.cards,
      this.more,
      this.bar,
    );
    rove(this.cards, "a.card");
    this.cards.classList.toggle("compact", storage.read("selavi.compact") === true);
    this.skyline.addEventListener("pointermove", (event) => this.point(event));
    this.skyline.addEventListener("pointerleave", () => this.point(null));
    this.skyline.addEventListener("click", (event) => {
      const cluster = this.clusterAt(event);
      if (cluster !== null) go(routeToCluster(cluster));
    });
    new ResizeObserver(() => this.draw()).observe(this.skyline);
    new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && this.addCards(), {
      rootMargin: "600px",
    }).observe(this.more);
  },

  toolbar() {
    const known = (name) => name === "number" || name === "name" || app.head.clusters.some((cluster) => SORTS[name].value(cluster) !== null);
    const options = (entries, chosen) => entries.map(([value, words]) => make("option", { value, selected: value === chosen }, words));
    this.search = make("input", {
      type: "search", id: "search", placeholder: "Name, label, number or clip", autocomplete: "off", spellcheck: false,
      value: this.query, "aria-keyshortcuts": "/",
    });
    this.search.addEventListener("input", () => {
      this.query = this.search.value;
      this.refresh();
      this.seekIds();
    });
    this.search.addEventListener("keydown", (event) => {
      const links = this.element.querySelectorAll(".hits a, a.card");
      if (event.key === "Enter" && links.length) links[0].click();
      if (event.key === "ArrowDown" && links.length) {
        event.preventDefault();
        links[0].focus();
      }
    });
    const select = (words, entries, chosen, change) => {
      const choice = make("select", { autocomplete: "off" }, options(entries, chosen));
      choice.addEventListener("change", () => (change(choice.value), this.refresh()));
      return make("label", { class: "field" }, make("span", {}, words), choice);
    };
    this.turn = iconButton("down", "", () => {
      this.down = !this.down;
      this.refresh();
    });
    const isCompact = () => this.cards.classList.contains("compact");
    const compact = button("Compact", () => {
      this.cards.classList.toggle("compact");
      storage.write("selavi.compact", isCompact());
      compact.setAttribute("aria-pressed", String(isCompact()));
    }, { class: "toggle", "aria-pressed": String(storage.read("selavi.compact") === true), title: "Small cards, more of them at once" });
    const labels = [...new Set(app.head.clusters.map((cluster) => cluster.labels[0]?.[0]).filter(Boolean))].sort();
    return make(
      "div",
      { class: "toolbar", role: "search" },
      make("label", { class: "field search" }, icon("search"), make("span", { class: "unseen" }, "Search clusters and clips"), this.search),
      make(
        "div",
        { class: "pair" },
        select("Sort by", Object.keys(SORTS).filter(known).map((name) => [name, SORTS[name].words]), this.sort, (value) => {
          this.sort = value;
          this.down = SORTS[value].down;
        }),
        this.turn,
      ),
      select("Show", Object.entries(FILTERS).map(([name, [words]]) => [name, words]), this.filter, (value) => (this.filter = value)),
      labels.length > 1
        ? select("Mostly", [["", "any label"], ...labels.map((label) => [label, label])], this.label, (value) => (this.label = value))
        : null,
      compact,
      this.count,
    );
  },

  refresh() {
    const { entries, shown } = this.listed();
    this.entries = entries;
    this.shown = shown;
    this.left = entries.filter((entry) => shown.has(entry.cluster));
    app.order = this.left.map((entry) => entry.cluster);
    const numAll = entries.length;
    const numShown = this.left.length;
    const words = numShown === numAll ? plural(numAll, "cluster") : `${grouped(numShown)} of ${plural(numAll, "cluster")}`;
    if (this.count.textContent !== words) this.count.textContent = words;
    fillWith(this.turn, icon(this.down ? "down" : "up"));
    this.turn.title = this.down ? "Largest first; reverse the order" : "Smallest first; reverse the order";
    this.turn.setAttribute("aria-label", this.turn.title);
    this.lede.textContent = `${plural(app.index.numClips, "clip")} in ${plural(app.head.clusters.length, "cluster")}, ${app.index.how}.`;
    this.progressRefresh(); // before the cards take what is left
    this.cards.replaceChildren();
    if (!numShown) addTo(this.cards, make("li", { class: "nothing" }, "No cluster matches. ", button("Show all", () => this.clear())));
    this.addCards();
    this.pickedRefresh();
    this.draw();
  },

  progressRefresh() {
    const overlay = names.overlay();
    const done = app.head.clusters.filter(({ cluster }) => overlay.nameOf(cluster) || overlay.rejected(cluster) || overlay.into(cluster) !== null);
    const clips = done.reduce((sum, cluster) => sum + cluster.size, 0);
    const share = clips / Math.max(1, app.index.numClips);
    fillWith(this.progress,
      make("b", {}, grouped(done.length)), ` of ${grouped(app.head.clusters.length)} named, merged or rejected`,
      make("span", { class: "quiet" }, ` · ${percent(share)} of the clips`),
    );
    this.meter.style.width = `${100 * share}%`;
    const settled = new Set(done.map(({ cluster }) => cluster));
    const next = this.left.find(({ cluster }) => !settled.has(cluster))?.cluster;
    const pairs = app.head.hasPairs ? [" ", make("a", { href: routeTo("pairs") }, "Compare clusters that look alike"), "."] : [];
    const other = app.index.heads.find((head) => head !== app.head);
    const heads = other ? [" ", make("a", { href: `#/heads/${app.head.head}/${other.head}` }, "Compare heads"), "."] : [];
    fillWith(this.guide, ...(next === undefined ? this.farewell() : this.invitation(next, done.length === 0)), ...(this.left.length ? pairs : []), ...heads);
  },

  /** One line for who does not know what to do first. */
  invitation(next, isFirst) {
    const link = make("a", { href: routeToCluster(next) }, `cluster ${next}`);
    if (!isFirst) return ["Next: ", link, "."];
    const keys = ["press ", make("kbd", {}, "n"), " and write its name, or ", make("kbd", {}, "y"), " to take the one suggested; ", make("kbd", {}, "Shift"), " ", make("kbd", {}, "Enter"), " goes on to the next."];
    if (matchMedia("(hover: none)").matches) return ["Begin with ", link, ": open it, listen, and write its name."];
    return ["Begin with ", link, ": open it, listen, ", ...keys];
  },

  farewell() {
    return this.left.length ? ["Nothing is left: ", make("a", { href: routeTo("names") }, "download names.csv"), "."] : [];
  },

  addCards() {
    const overlay = names.overlay();
    const entries = this.left.splice(0, CARDS_AT_ONCE);
    const next = entries.map((entry) => make("li", {}, card(entry, overlay), this.pickBox(entry.cluster)));
    entries.forEach((entry, i) => entry.created && coverSplit(next[i].firstChild, entry.cluster));
    if (next.length && !this.cards.querySelector("a.card")) next[0].firstChild.tabIndex = 0;
    addTo(this.cards, ...next);
  },

  /** The box that selects a card. */
  pickBox(cluster) {
    const box = make("input", { type: "checkbox", tabIndex: -1, checked: this.picked.has(cluster), "aria-label": `Select cluster ${cluster}` });
    box.addEventListener("change", () => this.pick(this.cards.querySelector(`[data-cluster="${cluster}"]`)));
    return make("label", { class: "pick" }, box);
  },

  /** Select a card, or not any more. */
  pick(element) {
    if (!element) return;
    const cluster = Number(element.dataset.cluster);
    if (!this.picked.delete(cluster)) this.picked.add(cluster);
    this.pickedRefresh();
  },

  pickedRefresh() {
    for (const element of this.cards.querySelectorAll("a.card")) {
      const chosen = this.picked.has(Number(element.dataset.cluster));
      element.parentNode.classList.toggle("chosen", chosen);
      element.parentNode.querySelector(".pick input").checked = chosen;
    }
    const many = this.picked.size;
    this.bar.hidden = !many;
    if (!many) return;
    const name = make("input", { list: "known-names", autocomplete: "off", placeholder: "a name", "aria-label": "Name of the selected clusters" });
    const form = make("form", {}, name, make("button", { type: "submit" }, many > 1 ? "Name them all" : "Name it"));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (name.value.trim()) this.afterPicked(() => edits.nameClusters([...this.picked], name.value.trim()));
    });
    fillWith(this.bar,
      make("p", { role: "status" }, `${plural(many, "cluster")} selected`),
      many === 2 ? make("a", { class: "button", href: this.routeToPicked(), title: "c", "aria-keyshortcuts": "c" }, "Compare them") : null,
      many > 1 ? button("Merge them", () => this.joinPicked(), { class: "primary", title: "g", "aria-keyshortcuts": "g" }) : null,
      form,
      button("Reject", () => this.rejectPicked(), { title: "r", "aria-keyshortcuts": "r" }),
      button("Clear", () => this.letGo(), { class: "quiet-button", title: "Esc" }),
    );
  },

  /** The address of two selected clusters side by side. */
  routeToPicked() {
    return routeToCompare(...this.picked);
  },

  joinPicked() {
    this.afterPicked(() => edits.join([...this.picked]));
  },

  rejectPicked() {
    this.afterPicked(() => edits.rejectClusters([...this.picked]));
  },

  /** Do something with the clusters that are selected, and let go of them; the keys stay where they were. */
  afterPicked(act) {
    const focused = document.activeElement?.dataset?.cluster;
    act();
    this.letGo();
    this.cards.querySelector(focused === undefined ? "a.card" : `[data-cluster="${focused}"]`)?.focus({ preventScroll: true });
  },

  letGo() {
    this.picked.clear();
    this.pickedRefresh();
  },

  clear() {
    Object.assign(this, { query: "", filter: "all", label: "" });
    const toolbar = this.toolbar();
    this.element.querySelector(".toolbar").replaceWith(toolbar);
    this.refresh();
    this.search.focus();
  },

  draw() {
    const canvas = this.skyline;
    const { clientWidth: width, clientHeight: height } = canvas;
    if (!width || !this.entries) return;
    const scale = devicePixelRatio || 1;
    canvas.width = width * scale;
    canvas.height = height * scale;
    const draw = canvas.getContext("2d");
    draw.scale(scale, scale);
    const overlay = names.overlay();
    const measure = ["number", "name"].includes(this.sort) ? "size" : this.sort;
    const values = this.entries.map((entry) => SORTS[measure].value(entry) ?? 0);
    const most = Math.max(...values, 1e-9);
    const step = Math.min(width / values.length, WIDEST_BAR);
    const gap = step > 6 ? 2 : step > 3 ? 1 : 0;
    const [named, unnamed] = [colourOf("--accent"), colourOf("--bar")];
    values.forEach((value, i) => {
      const { cluster } = this.entries[i];
      const settled = overlay.rejected(cluster) || overlay.into(cluster) !== null;
      draw.globalAlpha = (this.shown.has(cluster) ? 1 : 0.2) * (settled ? 0.4 : 1);
      draw.fillStyle = overlay.nameOf(cluster) ? named : unnamed;
      const tall = Math.max(2, (value / most) * (height - 2));
      draw.fillRect(i * step, height - tall, Math.max(step - gap, 0.75), tall);
    });
    const heading = SORTS[measure].words;
    fillWith(this.axis,
      `One bar for each cluster; its height is ${measure === "size" ? "the number of clips" : heading} (up to ${measure === "size" ? grouped(most) : decimals(most)}). `,
      make("span", { class: "key-named" }, "Named"), " ", make("span", { class: "key-unnamed" }, "not yet"),
    );
  },

  clusterAt(event) {
    const box = this.skyline.getBoundingClientRect();
    const at = Math.floor((event.clientX - box.left) / Math.min(box.width / this.entries.length, WIDEST_BAR));
    return this.entries[at]?.cluster ?? null;
  },

  point(event) {
    const cluster = event ? this.clusterAt(event) : null;
    this.tip.hidden = cluster === null;
    if (cluster === null) return;
    const entry = this.entry(cluster);
    const name = names.overlay().nameOf(cluster) || entry.suggestion;
    fillWith(this.tip, make("b", {}, String(cluster)), name ? userText(` ${name}`) : "", ` · ${plural(entry.size, "clip")}`);
    const box = this.skyline.getBoundingClientRect();
    const x = event.clientX - box.left;
    this.tip.style.transform = `translateX(${clamp(x, 60, box.width - 60)}px) translateX(-50%)`;
  },

  /** Clip ids are read only when somebody looks for one. */
  seekIds: debounce(350, async () => {
    const query = indexView.query.trim().toLowerCase();
    indexView.hits.replaceChildren();
    const isShort = query.length < 3; // a number as the whole name of a file, but no two letters anywhere
    if (query.startsWith("#") || (isShort && !/^\d+$/.test(query))) return;
    const found = [];
    let more = 0;
    const column = headName(app.head);
    try {
      for (let part = 0; part < numIdFiles(); part += 1) {
        const { id, texts, ...heads } = await loadIds(part);
        const fits = (text) => (isShort ? stemOf(text ?? "") === query : text?.toLowerCase().includes(query));
        if (indexView.query.trim().toLowerCase() !== query) return;
        id.forEach((text, i) => {
          if (!fits(text) && !texts?.[i].some(fits)) return;
          if (found.length < 60) found.push([text, heads[column][i]]);
          else more += 1;
        });
      }
    } catch (error) {
      fillWith(indexView.hits, fault(error.message));
      return;
    }
    if (!found.length) {
      if (!indexView.shown.size) fillWith(indexView.hits, make("p", { class: "quiet" }, `No clip's id${app.index.columns.length ? " or text" : ""} holds that.`));
      return;
    }
    fillWith(indexView.hits,
      make("h2", {}, `${plural(found.length + more, "clip")} with that in the id${app.index.columns.length ? " or text" : ""}`, more ? make("span", { class: "quiet" }, ", the first 60") : null),
      make(
        "ul",
        { role: "list" },
        found.map(([id, cluster]) => make("li", {}, make("a", { href: routeToClip(cluster, id) }, userText(id, "mono"), make("span", { class: "quiet" }, ` cluster ${spoken(cluster)}`)))),
      ),
    );
  }),
};

/** The name of a file without its folders and its suffix. */
const stemOf = (id) => lastPart(id).toLowerCase().replace(/\.[^.]*$/, "");

/** The labels of a cluster as one bar: the commonest strongest, the rest hollow. */
const labelBar = (cluster) => {
  const bar = make("span", { class: "label-bar", "aria-hidden": "true" });
  cluster.labels.forEach(([, count], i) => {
    const piece = make("span", { class: `piece p${i}` });
    piece.style.width = `${(100 * count) / Math.max(1, cluster.numLabelled)}%`;
    addTo(bar, piece);
  });
  return bar;
};

/** The cover of a cluster of clips without pictures: those of the user's table, or the words of typical clips. */
const wordsCover = (cluster, fate) => {
  const pictures = cluster.pictures ?? [];
  const stamp = fate ? make("span", { class: "stamp" }, fate) : null;
  if (pictures.length)
    return make("span", { class: `cover n${pictures.length}` }, pictures.map((src) => make("span", { class: "cell" }, picture(src, "whole", ""))), stamp);
  return make("span", { class: "cover-words" }, (cluster.words ?? []).map((text) => userText(text)), stamp);
};

/** Let a cluster that was split off in the page show its first clips. */
const coverSplit = async (element, cluster) => {
  const rows = names.overlay().arrivals(cluster).slice(0, 4);
  const clips = await Promise.all(rows.map((row) => findClip(row.cluster, row.id).catch(() => null)));
  const thumbs = clips.map((clip) => clip?.thumb).filter(Boolean);
  if (!thumbs.length || app.index.words) return;
  const cover = element.querySelector(".cover");
  cover.className = `cover n${thumbs.length}`;
  cover.querySelector(".blank")?.remove();
  cover.prepend(...thumbs.map((src) => make("span", { class: "cell" }, picture(src, app.index.tile.frames ? "picture" : "wave", ""))));
};

const card = (cluster, overlay) => {
  const { cluster: number } = cluster;
  const name = overlay.nameOf(number);
  const into = overlay.into(number);
  const fate = overlay.rejected(number) ? "rejected" : into !== null ? `merged into ${into}` : cluster.created ? "split off" : null;
  const size = overlay.sizeOf(number);
  const top = cluster.labels[0];
  return make(
    "a",
    { class: `card${fate && !cluster.created ? " settled" : ""}${name ? " named" : ""}`, href: routeToCluster(number), tabIndex: -1, "data-cluster": number },
    app.index.words
      ? wordsCover(cluster, fate)
      : make(
      "span",
      { class: `cover n${cluster.cover.length}` },
      cluster.cover.slice(0, 4).map((src) => make("span", { class: "cell" }, picture(src, app.index.tile.frames ? "picture" : "wave", ""))),
      cluster.cover.length ? null : make("span", { class: "blank" }, icon("no-picture")),
      fate ? make("span", { class: "stamp" }, fate) : null,
    ),
    cluster.cover.length && app.index.tile.frames && app.index.tile.spectrogram
      ? make("span", { class: "band" }, cluster.cover.slice(0, 4).map((src) => make("span", { class: "cell" }, picture(src, "wave", ""))))
      : null,
    make(
      "span",
      { class: "card-words" },
      make(
        "span",
        { class: "card-title" },
        make("span", { class: "unseen" }, `Cluster ${number}, `),
        name ? userText(name, "given") : cluster.suggestion ? make("span", { class: "suggested" }, userText(cluster.suggestion), "?") : make("span", { class: "suggested" }, "unnamed"),
        make("span", { class: "number", "aria-hidden": "true" }, String(number)),
      ),
      cluster.labels.length ? labelBar(cluster) : null,
      make(
        "span",
        { class: "card-facts" },
        make("span", {}, plural(size, "clip")),
        top ? make("span", { class: "card-label" }, `${percent(cluster.purity)} `, userText(top[0])) : null,
        cluster.confidence === null ? null : make("span", { class: "card-sure", title: "mean confidence" }, make("span", { class: "unseen" }, "confidence "), decimals(cluster.confidence)),
      ),
    ),
  );
};
