// A queue of all clips over all clusters, those first that most want a look: select some, then move, reject, split off.
//
// A clip is told by its position: clusters by number, and within one the most confident clip first.

const QUEUE_PAGE = 48;
const DISTANCES = 1000; // steps of a distance of 1

/** column: of the data, null there where nothing of it is known; shown: a tile's figure in words, beside what all have. */
const QUEUE_ORDERS = {
  unsure: {
    words: "Least sure",
    meaning: "The smallest confidence first.",
    column: "confidence",
    shown: () => null, // every tile has its confidence
  },
  disagree: {
    get words() { return app.index.words ? "Modalities disagree" : "Picture and sound disagree"; },
    get meaning() { return `${app.index.words ? "The modalities" : "Picture alone and sound alone"} share least of their probabilities for clusters: 0 is nothing, 1 all.`; },
    column: "agreement",
    shown: (value) => `they share ${decimals(value / SHARES)}`,
  },
  label: {
    words: "Label differs",
    meaning: "Another label than more than half of the labelled clips of the cluster have; the most confident first.",
    column: "differs",
    shown: () => null, // every tile has its label
  },
  odd: {
    words: "Odd for their cluster",
    meaning: "Farthest from the mean features of their cluster; 1.00 is as far as its clips are on average.",
    column: "odd",
    shown: (value) => `${decimals(value / DISTANCES)} × the usual distance`,
  },
};

const queueView = {
  order: "unsure",
  page: 0,
  columns: null,
  positions: new Map(), // of the head shown: order -> positions, sorted
  head: null,
  element: null,
  found: new Map(), // positions of clips that were shown, by cluster/id
  leavesOut: true, // the clips that somebody has decided on

  /** `place`: what follows #/queue/, as unsure/3. */
  show(place) {
    const [order, page] = place;
    if (order in QUEUE_ORDERS) this.order = order;
    this.page = /^\d+$/.test(page ?? "") ? Math.max(0, Number(page) - 1) : 0;
    this.orders = make("div", { class: "queue-orders", role: "group", "aria-label": "Order of the queue" });
    this.words = make("p", { class: "queue-words", role: "status" });
    this.switch = button("Leave out decided", () => this.toggleDecided(), { class: "toggle", title: "Clips that you moved or rejected, and those of rejected clusters" });
    this.grid = make("div");
    this.pager = make("nav", { class: "pager", "aria-label": "Pages of the queue" });
    this.element = make(
      "div",
      { class: "queue-view" },
      make(
        "header",
        {},
        make("h1", { id: "title", tabIndex: -1 }, "Queue"),
        make("p", { class: "lede" }, `Clips of all clusters that most want a look. Select some${matchMedia("(hover: none)").matches ? "" : " (x, or Shift and a click)"}, then move, confirm, reject or split them off below.`),
      ),
      this.orders,
      make("div", { class: "queue-bar" }, this.words, this.switch, button("Select the page", () => this.selectPage(), { title: "a", "aria-keyshortcuts": "a" })),
      this.grid,
      this.pager,
    );
    this.leavesOut = storage.read("selavi.queue.all") !== true;
    this.showSwitch();
    rove(this.grid, "button.tile");
    this.fill();
    return this.element;
  },

  async fill() {
    const { element } = this;
    const { head } = app;
    try {
      const columns = await loadQueue();
      if (!element.isConnected || app.head !== head) return;
      if (this.head !== head) {
        this.head = head;
        this.columns = columns;
        this.positions.clear();
        this.found.clear();
        this.starts = startsOf(head.clusters);
      }
      if (!this.columns[QUEUE_ORDERS[this.order].column]) this.order = "unsure";
      this.showOrders();
      await this.turnTo(this.page);
    } catch (error) {
      if (element.isConnected) fillWith(this.grid, fault(error.message));
    }
  },

  showOrders() {
    const known = Object.entries(QUEUE_ORDERS).filter(([, { column }]) => this.columns[column]);
    fillWith(this.orders,
      ...known.map(([name, { words, meaning }]) =>
        button(words, () => this.choose(name), { class: "queue-order", "aria-pressed": String(name === this.order) },
          make("b", {}, words), make("span", { class: "quiet" }, plural(this.inOrder(name).length, "clip")), make("span", { class: "queue-meaning" }, meaning))),
    );
  },

  choose(name) {
    this.order = name;
    this.showOrders();
    this.orders.querySelector('[aria-pressed="true"]').focus();
    this.turnTo(0);
  },

  /** Positions of all clips of an order; sorted when it is asked for. */
  inOrder(name) {
    if (!this.positions.has(name)) this.positions.set(name, sortPositions(name, this.columns, app.index.numClips));
    return this.positions.get(name);
  },

  showSwitch() {
    this.switch.setAttribute("aria-pressed", String(this.leavesOut));
  },

  toggleDecided() {
    this.leavesOut = !this.leavesOut;
    storage.write("selavi.queue.all", !this.leavesOut);
    this.showSwitch();
    this.turnTo(0);
  },

  /** (N,) 1 for the positions that somebody has decided on: clips moved or rejected, and all of a rejected cluster. */
  async decided() {
    const { head, found, starts } = this;
    const mask = new Uint8Array(app.index.numClips);
    const sought = new Map();
    const place = new Map(head.clusters.map(({ cluster }, i) => [cluster, starts[i]]));
    for (const { head: number, cluster, id, rejected } of names.rows.values()) {
      if (number !== head.head || !place.has(cluster)) continue;
      if (id === null && rejected) mask.fill(1, place.get(cluster), place.get(cluster) + app.clusters.get(cluster).size);
      if (id !== null && !found.has(`${cluster}/${id}`)) sought.set(cluster, (sought.get(cluster) ?? new Set()).add(id));
    }
    for (const [cluster, ids] of sought)
      for (const clip of await findClips(cluster, ids)) found.set(tileKey(clip), place.get(cluster) + clip.number - 1);
    for (const { head: number, cluster, id } of names.rows.values()) {
      const position = number === head.head && id !== null ? found.get(`${cluster}/${id}`) : undefined;
      if (position !== undefined) mask[position] = 1;
    }
    return mask;
  },

  /** Positions of the order chosen, without those decided on where they are left out. */
  async listed() {
    const all = this.inOrder(this.order);
    if (!this.leavesOut || !names.rows.size) return all;
    const mask = await this.decided();
    return all.filter((position) => !mask[position]);
  },

  async turnTo(page, thenFocus = false) {
    const asked = Symbol("page");
    this.asked = asked;
    const { order } = this;
    const all = await this.listed();
    if (this.asked !== asked) return;
    const pages = Math.max(1, Math.ceil(all.length / QUEUE_PAGE));
    this.page = clamp(page, 0, pages - 1);
    const first = this.page * QUEUE_PAGE;
    const positions = [...all.subarray(first, first + QUEUE_PAGE)];
    const clips = await Promise.all(positions.map((position) => loadRanked(...this.placeOf(position))));
    if (!this.grid.isConnected || this.asked !== asked) return;
    this.keepAddress();
    const focused = [...this.grid.querySelectorAll("button.tile")].indexOf(document.activeElement);
    clusterView.forget(this.grid);
    dock.inspect(null);
    const tiles = clips.map((clip, i) => this.tile(clip, positions[i]));
    fillWith(this.grid, tileGrid(tiles, `Queue: ${QUEUE_ORDERS[this.order].words}`));
    const left = this.inOrder(order).length - all.length;
    fillWith(this.words, make("b", {}, `${QUEUE_ORDERS[order].words}: ${plural(all.length, "clip")}`), left ? `; ${grouped(left)} that you decided on ${left === 1 ? "is" : "are"} left out.` : ".");
    if (!clips.length) addTo(this.grid, make("p", { class: "nothing" }, "Nothing is left in this order."));
    this.showPager(first, clips.length, all.length, pages);
    if (focused >= 0) (tiles[focused] ?? tiles.at(-1))?.button.focus({ preventScroll: true });
    if (thenFocus) {
      tiles[0]?.button.focus({ preventScroll: true });
      this.words.scrollIntoView({ block: "start" });
    }
  },

  tile(clip, position) {
    const entry = indexView.entry(clip.cluster);
    const tile = new Tile(clip, entry.labels[0]?.[0] ?? null);
    const { column, shown } = QUEUE_ORDERS[this.order];
    const name = names.overlay().nameOf(clip.cluster) || entry.suggestion;
    const figure = shown(column === "differs" ? 0 : this.columns[column][position]);
    this.found.set(tileKey(clip), position);
    addTo(tile.element.querySelector(".caption"),
      figure === null ? null : make("span", { class: "queue-why" }, figure),
      make("a", { class: "queue-home", href: routeToClip(clip.cluster, clip.id) }, `in ${clip.cluster}`, name ? [" ", userText(name)] : null),
    );
    return tile;
  },

  showPager(first, count, total, pages) {
    const move = (words, target, name, key) =>
      iconButton(name, words, () => this.turnTo(target, true), { disabled: target < 0 || target >= pages, "aria-keyshortcuts": key, title: `${words} (${key})` });
    fillWith(this.pager,
      ...(pages > 1
        ? [
            move("Previous page", this.page - 1, "left", "k"),
            make("span", { role: "status" }, `${grouped(first + 1)}–${grouped(first + count)} of ${grouped(total)}`),
            move("Next page", this.page + 1, "right", "j"),
          ]
        : []),
    );
  },

  /** The address names order and page, so that a reload or a link leads back here. */
  keepAddress() {
    const address = routeTo(`queue/${this.order}/${this.page + 1}`);
    if (clipView.isOpen() || location.hash === address) return;
    history.replaceState(history.state, "", address);
    clipView.below = address;
  },

  /** [cluster, rank] of a position. */
  placeOf(position) {
    let [low, high] = [0, this.starts.length - 1];
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if (this.starts[middle] <= position) low = middle;
      else high = middle - 1;
    }
    return [app.head.clusters[low].cluster, position - this.starts[low]];
  },

  selectPage() {
    const here = shownTiles.filter((tile) => this.grid.contains(tile.element));
    const all = here.every((tile) => selection.has(tileKey(tile.clip)));
    for (const { clip } of here) {
      if (all) selection.delete(tileKey(clip));
      else selection.set(tileKey(clip), { cluster: clip.cluster, id: clip.id });
    }
    refreshTiles();
    dock.refresh();
  },

  /** Press a button of the dock for the clips selected; the keys stay on the tile. */
  press(id) {
    if (!selection.size) {
      say("Select clips first: x, or Shift and a click.");
      return;
    }
    byId(id).click();
  },

  /** After an edit: clips that were decided on make room for the next ones. */
  refresh() {
    if (this.leavesOut && this.columns && !clipView.isOpen()) this.turnTo(this.page).catch((error) => say(error.message));
    else refreshTiles();
  },
};

/** (C,) the position of each cluster's first clip. */
const startsOf = (clusters) => {
  const starts = new Int32Array(clusters.length);
  for (let i = 1; i < clusters.length; i += 1) starts[i] = starts[i - 1] + clusters[i - 1].size;
  return starts;
};

/** Positions of an order's clips, the ones first that most want a look; of equal ones the earlier position. */
const sortPositions = (name, columns, count) => {
  const { column } = QUEUE_ORDERS[name];
  const differs = (position) => (columns.differs[position >> 3] >> (position & 7)) & 1;
  const value = {
    unsure: (position) => columns.confidence[position],
    disagree: (position) => columns.agreement[position],
    odd: (position) => (columns.odd[position] === UNKNOWN ? UNKNOWN : UNKNOWN - 1 - columns.odd[position]),
    label: (position) => (differs(position) ? UNKNOWN - 1 - (columns.confidence?.[position] ?? 0) : UNKNOWN),
  }[name];
  const keys = new Float64Array(count);
  let found = 0;
  if (columns[column])
    for (let position = 0; position < count; position += 1) {
      const key = value(position);
      if (key === UNKNOWN) continue;
      keys[found] = key * count + position;
      found += 1;
    }
  return Int32Array.from(keys.subarray(0, found).sort(), (key) => key % count);
};

const queueShortcuts = {
  a: () => queueView.selectPage(),
  j: () => queueView.pager.querySelector("button:last-of-type:not(:disabled)")?.click(),
  k: () => queueView.pager.querySelector("button:first-of-type:not(:disabled)")?.click(),
  r: () => queueView.press("reject-clips"),
  y: () => queueView.press("confirm-clips"),
  s: () => queueView.press("split"),
  i: () => (selection.size ? byId("move-into").focus() : queueView.press("move")),
};
