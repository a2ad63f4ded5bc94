// One cluster: its name and figures at the side, its clips in rows.

const CLIPS_A_PAGE = 96;
const ROWS = [
  ["typical", "Typical", "the most confident clips"],
  ["borderline", "Borderline", "almost in another cluster"],
  ["odd", "Odd ones out", "least like the others"],
];

const BOX_WORDS = {
  evidence: "The box is around the largest part of what the model goes by.",
  windows: "The box is around the parts of the picture that look most like the cluster when each is looked at by itself.",
  contrast: "The box is around what stands out of the picture, in space or in time, whatever the cluster.",
  heard: "The box is around the parts of the picture that look most like what is heard, each looked at by itself.",
};
const SAME_BOX = "The box is around its largest hot part.";
const GLOW_WORDS = {
  contrast: "In the picture glows what stands out of it, in space or in time, whatever the cluster; in the sound, what the model goes by.",
  evidence: "What glows is what the model goes by; in the picture that is often beside the thing itself.",
};
const UNMEASURED = "Nobody has measured here whether it points at things: selavi localise --annotations does.";

const clusterView = {
  number: 0,
  page: 0,

  /** `id`: a clip to show and focus, or null. */
  show(number, id) {
    this.number = number;
    this.page = 0;
    this.section = null;
    this.isFilled = false;
    this.matched = null; // the clips that a filter lets pass: [[cluster, place within it, id], ...]
    this.isShort = false;
    this.entry = indexView.entry(number);
    clusterFilter.read(id === null && this.entry.parts ? route.query : "");
    this.usual = this.entry.labels[0]?.[0] ?? null;
    this.side = make("aside", { class: "side", "aria-label": `About cluster ${number}` });
    this.rows = make("div", { class: "rows" });
    this.buildSide();
    rove(this.rows, "button.tile");
    this.fill(id);
    return make("div", { class: "cluster-view" }, this.side, this.rows);
  },

  buildSide() {
    const { number, entry } = this;
    const [previous, next] = [neighbour(-1), neighbour(1)];
    this.name = make("input", {
      id: "name", class: "name", list: "known-names", autocomplete: "off", maxLength: 200, placeholder: entry.suggestion ?? "Name it",
      "aria-keyshortcuts": "n",
    });
    this.name.addEventListener("change", () => this.saveName());
    this.name.addEventListener("keydown", (event) => {
      if (event.key === "Enter") {
        event.preventDefault();
        this.saveName();
        if (event.shiftKey && neighbour(1) !== null) go(routeToCluster(neighbour(1)));
        else byId("title").focus();
      } else if (event.key === "Escape") {
        event.stopPropagation();
        this.name.value = names.overlay().nameOf(number);
        byId("title").focus();
      }
    });
    this.chips = make("div", { class: "chips" });
    this.state = make("div", { class: "state" });
    this.actions = make("div", { class: "actions" });
    const step = (name, words, cluster, key) =>
      make("a", {
        class: "icon-button", href: cluster === null ? null : routeToCluster(cluster), title: `${words} (${key})`, "aria-label": words,
        "aria-keyshortcuts": key, "aria-disabled": cluster === null ? "true" : null, role: cluster === null ? "link" : null,
      }, icon(name));
    addTo(this.side,
      make(
        "div",
        { class: "crumbs" },
        make("a", { href: routeTo("") }, "All clusters"),
        make("span", { class: "steps" }, step("left", "Previous cluster", previous, "k"), step("right", "Next cluster", next, "j")),
      ),
      make("h1", { id: "title", tabIndex: -1 }, make("span", { class: "word" }, "Cluster "), String(number)),
      make("label", { class: "name-field" }, make("span", { class: "unseen" }, `Name of cluster ${number}`), this.name),
      this.chips,
      this.state,
      this.facts(),
      this.labels(),
      this.nearest(),
      this.actions,
    );
    this.refreshSide();
  },

  saveName() {
    const name = this.name.value.trim();
    if (name !== names.overlay().nameOf(this.number)) edits.nameCluster(this.number, name);
  },

  /** What edits change: the name, suggestions, the cluster's fate. */
  refreshSide() {
    const { number, entry } = this;
    const overlay = names.overlay();
    const name = overlay.nameOf(number);
    if (document.activeElement !== this.name) this.name.value = name;
    const offered = [...new Set([entry.suggestion, ...entry.labels.slice(0, 3).map(([label]) => label)].filter(Boolean))];
    fillWith(this.chips,
      ...(name ? [] : offered.map((text) => button(text, () => edits.nameCluster(number, text), { class: "chip", title: "Take this name" }, icon("plus"), userText(text)))),
    );
    const twin = name ? allClusters().find((other) => other !== number && overlay.nameOf(other) === name && overlay.into(other) === null) : undefined;
    const into = overlay.into(number);
    fillWith(this.state,
      ...[
        into !== null ? make("p", { class: "fate-note" }, "Merged into ", make("a", { href: routeToCluster(into) }, userText(spoken(into))), ". ", button("Separate it again", () => edits.restoreCluster(number), { class: "link" })) : null,
        overlay.rejected(number) ? make("p", { class: "fate-note" }, "Rejected. ", button("Put it back", () => edits.restoreCluster(number), { class: "link" })) : null,
        overlay.mergedInto(number).length
          ? make("p", { class: "fate-note" }, "Holds also ", overlay.mergedInto(number).flatMap((other, i) => [i ? ", " : "", make("a", { href: routeToCluster(other) }, userText(spoken(other)))]), ".")
          : null,
        twin !== undefined && into === null
          ? make("p", { class: "fate-note" }, "Cluster ", make("a", { href: routeToCluster(twin) }, String(twin)), " has this name too. ", button(`Merge into ${twin}`, () => edits.merge(number, twin), { class: "link" }))
          : null,
      ].filter(Boolean),
    );
    this.refreshActions(into, overlay.rejected(number));
    this.sizeText.textContent = grouped(overlay.sizeOf(number));
  },

  refreshActions(into, rejected) {
    const { number } = this;
    if (this.actions.contains(document.activeElement)) byId("title").focus();
    if (into !== null || rejected) {
      this.actions.replaceChildren();
      return;
    }
    const target = make("input", { list: "known-clusters", autocomplete: "off", placeholder: "number or name", "aria-label": "Merge into cluster" });
    const form = make("form", { class: "merge" }, make("span", {}, "Merge into"), target, make("button", { type: "submit" }, "Merge"));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const other = readCluster(target.value);
      if (other !== null) edits.merge(number, other);
    });
    fillWith(this.actions, form, button("Reject this cluster", () => edits.rejectCluster(number), { class: "quiet-button" }));
  },

  facts() {
    const { entry } = this;
    this.sizeText = make("span");
    const fact = (words, value, share, hint) =>
      value === null
        ? null
        : make("div", { title: hint }, make("dt", {}, words), make("dd", {}, value), share === null ? null : meter(share));
    return make(
      "dl",
      { class: "facts" },
      fact("Clips", this.sizeText, null, "clips, after your edits"),
      entry.confidence === null ? null : fact("Confidence", decimals(entry.confidence), entry.confidence, "mean over the clips: the largest entry of a clip's plan row"),
      entry.agreement === null ? null : fact(app.index.words ? "Modalities agree" : "Sound and picture agree", decimals(entry.agreement), entry.agreement, "mean agreement of the modalities"),
      entry.purity === null ? null : fact("Purity", percent(entry.purity), entry.purity, "share of the commonest label"),
      entry.entropy === null ? null : fact("Entropy of labels", `${decimals(entry.entropy)} nats`, null, "0: one label alone"),
    );
  },

  labels() {
    const { entry } = this;
    if (!entry.labels.length) return null;
    const share = (count) => percent(count / Math.max(1, entry.numLabelled));
    const unlabelled = entry.size - entry.numLabelled;
    return make(
      "section",
      { class: "block", "aria-labelledby": "labels-title" },
      make("h2", { id: "labels-title" }, "Labels"),
      labelBar(entry),
      make("ul", { class: "label-list", role: "list" }, entry.labels.map(([label, count], i) => make("li", {}, make("span", { class: `dot p${i}`, "aria-hidden": "true" }), userText(label), make("span", { class: "amount" }, share(count))))),
      unlabelled > 0 ? make("p", { class: "quiet" }, `${plural(unlabelled, "clip")} without a label`) : null,
    );
  },

  nearest() {
    const { entry } = this;
    if (!entry.nearest.length) return null;
    const overlay = names.overlay();
    return make(
      "section",
      { class: "block", "aria-labelledby": "nearest-title" },
      make("h2", { id: "nearest-title" }, "Nearest clusters"),
      make(
        "ul",
        { class: "nearest", role: "list" },
        entry.nearest.map(([other, similarity], place) => {
          const near = indexView.entry(other);
          const name = overlay.nameOf(other);
          const words = name || near.suggestion || "unnamed";
          return make(
            "li",
            {},
            make(
              "a",
              { href: routeToCluster(other) },
              app.index.words ? null : make("span", { class: "cell" }, near.cover.length ? picture(near.cover[0], app.index.tile.frames ? "picture" : "wave", "") : icon("no-picture")),
              make("span", { class: "near-words" }, make("span", { class: "number" }, String(other)), " ", userText(words, name ? "given" : "suggested"), make("span", { class: "quiet", title: "cosine similarity" }, decimals(similarity))),
            ),
            make("a", { class: "beside", href: routeToCompare(this.number, other), "aria-label": `Compare with cluster ${other}` }, "Compare"),
            button("Merge", () => this.mergeNearest(place), { class: "link", title: `Merge ${other} and ${entry.cluster} (${place + 1})`, "aria-label": `Merge with cluster ${other}`, "aria-keyshortcuts": String(place + 1) }),
          );
        }),
      ),
    );
  },

  /** Merge this cluster and the one at a place of those that are nearest. */
  mergeNearest(place) {
    const near = this.entry.nearest[place];
    if (near) edits.join([this.number, near[0]]);
  },

  async fill(id) {
    const { number, rows } = this;
    const current = () => route.view === "cluster" && clusterView.number === number && rows.isConnected;
    addTo(rows, this.rowsBar(), this.entry.parts ? clusterFilter.build() : null);
    try {
      if (this.entry.parts) {
        const part = await loadPart(number, 0);
        if (!current()) return;
        const { size } = this.entry;
        this.isShort = part.rows.typical.length >= size; // in other rows they would be shown again
        const rowsShown = this.isShort ? [["typical", `All ${plural(size, "clip")}`, "most confident first"]] : ROWS;
        for (const [key, words, hint] of rowsShown) {
          const clips = part.rows[key].map((index) => clipInRows(part, index, number));
          if (clips.length) addTo(rows, this.row(key, words, hint, clips));
        }
      }
      this.arrivals = make("div");
      addTo(rows, this.arrivals);
      await this.fillArrivals();
      if (!current()) return;
      this.isFilled = true;
      if (clusterFilter.isActive()) await clusterFilter.apply();
      else this.refreshMembers();
      if (id !== null) await this.reveal(id);
    } catch (error) {
      if (current()) addTo(rows, fault(error.message));
    }
  },

  rowsBar() {
    const switches = make("div", { class: "rows-bar" });
    const words = make("p", { class: "quiet hint", "aria-live": "polite" });
    const { hasEvidence, hasBoxes, boxMaps, maps, worth } = app.index;
    const measured = worth ? `${worth[0].toUpperCase()}${worth.slice(1)}.` : UNMEASURED;
    const glow = hasEvidence && `${GLOW_WORDS[maps]} ${measured}`;
    const box = hasEvidence && boxMaps === maps ? SAME_BOX : BOX_WORDS[boxMaps];
    const why = present([glow, hasBoxes && box]).join(" ");
    const say = () => fillWith(words, evidence.shown && why ? why : hint);
    if (why) {
      const toggle = button("Where and when", () => {
        evidence.toggle();
        toggle.setAttribute("aria-pressed", String(evidence.shown));
        say();
      }, { class: "toggle", "aria-pressed": String(evidence.shown), title: "Show where in the picture and when in the sound (e)", id: "evidence" });
      toggle.prepend(icon("eye"));
      addTo(switches, toggle);
    }
    const act = matchMedia("(hover: none)").matches ? "Tap" : "Click";
    let hint = `${act} a clip to hear it, its spectrogram to hear it from there${act === "Tap" ? "" : "; double click to see it large"}.`;
    if (app.index.words) hint = `${act} a clip to see all that is known of it.`;
    else if (app.index.pictures) hint = `${act} a picture to open it.`;
    say();
    addTo(switches, words);
    return switches;
  },

  row(key, words, hint, clips) {
    const tiles = clips.map((clip) => new Tile(clip, this.usual));
    return make(
      "section",
      { class: `row ${key}`, "aria-labelledby": `row-${key}` },
      make(
        "div",
        { class: "row-head" },
        make("h2", { id: `row-${key}` }, words),
        make("p", { class: "quiet" }, hint),
        app.index.words || app.index.pictures ? null : button("Hear them all", () => player.listenAll(tiles), { class: "link", "aria-label": `Hear them all: ${words}` }, icon("play"), "Hear them all"),
      ),
      tileGrid(tiles, words),
    );
  },

  /** Clips that edits brought here from other clusters. */
  async fillArrivals() {
    const rows = names.overlay().arrivals(this.number);
    const clips = await Promise.all(
      rows.slice(0, CLIPS_A_PAGE).map(async (row) => {
        const bare = { cluster: row.cluster, id: row.id, path: row.id, number: null, media: null, thumb: null, kind: "video", playable: true };
        return (await findClip(row.cluster, row.id).catch(() => null)) ?? bare;
      }),
    );
    const hint = rows.length > clips.length ? `${grouped(rows.length)} clips, the first ${clips.length} of them` : "by your hand";
    const passing = clips.filter((clip) => clusterFilter.fits(clip));
    fillWith(this.arrivals, ...(passing.length ? [this.row("arrived", "Moved here", hint, passing)] : []));
    if (!rows.length && !this.entry.parts) addTo(this.arrivals, make("p", { class: "nothing" }, "No clip is in this cluster: it was split off, and its clips have been put back."));
  },

  /** The clusters whose clips are here: this one, and those that were merged into it, one after another. */
  holders() {
    const overlay = names.overlay();
    const all = allClusters().filter((cluster) => cluster === this.number || overlay.final(cluster) === this.number);
    return [...new Set([this.number, ...all])].filter((cluster) => indexView.entry(cluster).parts);
  },

  /** Show the members, anew where other clusters are merged now. */
  refreshMembers() {
    const all = this.holders();
    const holders = this.isShort && all.length === 1 && !this.matched ? [] : all;
    const shown = `${holders.join()} ${this.matched ? clusterFilter.text() : ""}`;
    if (this.section?.isConnected && shown === this.shownHolders) return;
    this.shownHolders = shown;
    const before = this.section;
    this.section = holders.length ? this.members(holders) : null;
    if (before?.isConnected) {
      this.forget(before);
      if (this.section) before.replaceWith(this.section);
      else before.remove();
    } else if (this.section) {
      addTo(this.rows, this.section);
    }
  },

  /** Let go of the tiles in a part of the page. */
  forget(place) {
    const old = new Set(shownTiles.filter((tile) => place.contains(tile.element)));
    for (const tile of old) player.detach(tile);
    shownTiles = shownTiles.filter((tile) => !old.has(tile));
  },

  members(holders) {
    this.size = this.matched?.length ?? holders.reduce((sum, cluster) => sum + indexView.entry(cluster).size, 0);
    const heading = this.matched ? "Clips that pass the filter" : `All ${plural(this.size, "clip")}`;
    const others = holders.filter((cluster) => cluster !== this.number);
    const hint = others.length ? `most confident first; then those of ${others.map(spoken).join(", ")}` : "most confident first";
    this.grid = make("div");
    this.pager = make("nav", { class: "pager", "aria-label": "Pages of members" });
    const section = make(
      "section",
      { class: "row all", "aria-labelledby": "row-all" },
      make("div", { class: "row-head" }, make("h2", { id: "row-all" }, heading), make("p", { class: "quiet" }, userText(hint))),
      this.grid,
      this.pager,
    );
    // Tiles are made when the reader comes near.
    new IntersectionObserver((entries, observer) => {
      if (!entries.some((entry) => entry.isIntersecting) || this.grid.firstChild) return;
      observer.disconnect();
      this.turnTo(0);
    }, { rootMargin: "500px" }).observe(section);
    return section;
  },

  async turnTo(page, thenFocus = false) {
    const { grid, pager, size } = this;
    if (!size) {
      fillWith(grid, make("p", { class: "nothing" }, "No clip passes."));
      return;
    }
    const pages = Math.ceil(size / CLIPS_A_PAGE);
    this.page = clamp(page, 0, pages - 1);
    const first = this.page * CLIPS_A_PAGE;
    const clips = await this.clipsBetween(first, Math.min(size, first + CLIPS_A_PAGE));
    this.forget(grid);
    const tiles = clips.map((clip) => new Tile(clip, this.usual));
    fillWith(grid, tileGrid(tiles, "All clips"));
    const move = (words, target, name) =>
      iconButton(name, words, () => this.turnTo(target, true), { disabled: target < 0 || target >= pages });
    fillWith(pager,
      ...(pages > 1
        ? [
            move("Previous page", this.page - 1, "left"),
            make("span", { role: "status" }, `${grouped(first + 1)}–${grouped(first + clips.length)} of ${grouped(size)}`),
            move("Next page", this.page + 1, "right"),
          ]
        : []),
    );
    if (thenFocus) {
      tiles[0].button.focus({ preventScroll: true });
      byId("row-all").scrollIntoView({ block: "start" });
    }
  },

  /** Clips first..last-1 of all holders in a row. */
  async clipsBetween(first, last) {
    const clips = [];
    if (this.matched) {
      for (const [cluster, place] of this.matched.slice(first, last)) clips.push(...(await loadClips(cluster, place, place + 1)));
      return clips;
    }
    let before = 0;
    for (const cluster of this.holders()) {
      const { size } = indexView.entry(cluster);
      const [from, to] = [Math.max(first - before, 0), Math.min(last - before, size)];
      if (from < to) clips.push(...(await loadClips(cluster, from, to)));
      before += size;
    }
    return clips;
  },

  async reveal(id) {
    const clip = await findClip(this.number, id);
    if (!clip) {
      say(`Cluster ${this.number} holds no clip ${id}.`);
      return;
    }
    if (this.section) await this.turnTo(Math.floor((clip.number - 1) / CLIPS_A_PAGE));
    const place = this.section ? this.grid : this.rows;
    const tile = shownTiles.find((each) => place.contains(each.element) && each.clip.id === id);
    tile?.button.focus({ preventScroll: true });
    tile?.element.scrollIntoView({ block: "center" });
    tile?.element.classList.add("sought");
  },

  /** After an edit. */
  refresh() {
    this.refreshSide();
    if (this.arrivals) this.fillArrivals();
    if (this.isFilled && clusterFilter.isActive()) clusterFilter.apply();
    else if (this.isFilled) this.refreshMembers();
    refreshTiles();
  },
};

const meter = (share) => {
  const fill = make("span", { class: "meter-fill" });
  fill.style.width = `${100 * clamp(share, 0, 1)}%`;
  return make("span", { class: "meter", "aria-hidden": "true" }, fill);
};

/** The cluster before (-1) or after (1) this one, in the order of the index. */
const neighbour = (step) => {
  const order = app.order.includes(clusterView.number) ? app.order : allClusters();
  return order[order.indexOf(clusterView.number) + step] ?? null;
};
