// Filters within a cluster: by label, confidence, agreement and length.  The address holds them: #/cluster/3?label=dog&length=2-5.

const RANGES = {
  confidence: { words: () => "Confidence", value: (clip) => clip.confidence, most: 1, step: 0.01, isKnown: (entry) => entry.confidence !== null },
  agreement: {
    words: () => (app.index.words ? "Modalities agree" : "Sound and picture agree"),
    value: (clip) => clip.agreement, most: 1, step: 0.01, isKnown: (entry) => entry.agreement !== null,
  },
  heads: { words: () => "Other heads keep it here", value: (clip) => clip.heads, most: 1, step: 0.01, isKnown: () => app.index.heads.length > 1 },
  length: { words: () => "Length in seconds", value: (clip) => clip.duration, most: null, step: 0.1, isKnown: () => !app.index.words && !app.index.pictures },
};
const NO_LABEL = "none";

const clusterFilter = {
  label: "", // "": any, NO_LABEL, or "is:" and a label
  ranges: {}, // name -> [least or null, most or null]
  wanted: "", // what was asked for last

  /** Take the filter of an address. */
  read(query) {
    const given = new URLSearchParams(query);
    this.label = given.has("label") ? `is:${given.get("label")}` : given.has("unlabelled") ? NO_LABEL : "";
    const bound = (text) => (text === undefined || text === "" || !Number.isFinite(Number(text)) ? null : Number(text));
    this.ranges = Object.fromEntries(Object.keys(RANGES).map((name) => {
      const [least, most] = (given.get(name) ?? "").split("-");
      return [name, [bound(least), bound(most)]];
    }));
  },

  /** The filter as an address has it; "" where there is none. */
  text() {
    const given = new URLSearchParams();
    if (this.label === NO_LABEL) given.set("unlabelled", "1");
    else if (this.label) given.set("label", this.label.slice(3));
    for (const [name, [least, most]] of Object.entries(this.ranges))
      if (least !== null || most !== null) given.set(name, `${least ?? ""}-${most ?? ""}`);
    return given.toString();
  },

  isActive() {
    return this.text() !== "";
  },

  /** Whether a clip passes; one without a figure that is asked for does not. */
  fits(clip) {
    const label = clip.label ?? null;
    if (this.label === NO_LABEL && label !== null) return false;
    if (this.label.startsWith("is:") && label !== this.label.slice(3)) return false;
    return Object.entries(this.ranges).every(([name, [least, most]]) => {
      if (least === null && most === null) return true;
      const value = RANGES[name].value(clip) ?? null;
      return value !== null && value >= (least ?? -Infinity) && value <= (most ?? Infinity);
    });
  },

  /** The clips of some clusters that pass: [[cluster, place within it, id], ...]. */
  async find(clusters) {
    const found = [];
    for (const cluster of clusters) {
      let before = 0;
      for (let part = 0; part < indexView.entry(cluster).parts; part += 1) {
        const columns = await loadPart(cluster, part);
        for (let index = 0; index < columns.id.length; index += 1)
          if (this.fits(clipAt(columns, index, cluster, null))) found.push([cluster, before + index, columns.id[index]]);
        before += columns.id.length;
      }
    }
    return found;
  },

  build() {
    this.status = make("p", { class: "filter-words", role: "status" });
    this.acts = make("span", { class: "filter-acts" });
    this.fields = make("div", { class: "filter-fields" });
    this.details = make("details", { class: "filter", open: this.isActive() && !matchMedia("(max-width: 40rem)").matches }, make("summary", {}, "Filter the clips"), this.fields);
    this.details.addEventListener("toggle", () => this.details.open && this.fillLabels());
    this.fillFields();
    return make("div", { class: "filter-bar" }, this.details, make("div", { class: "filter-state" }, this.status, this.acts));
  },

  fillFields() {
    const { entry } = clusterView;
    fillWith(this.fields,
      app.index.labelled ? this.labelField() : null,
      Object.entries(RANGES).filter(([, { isKnown }]) => isKnown(entry)).map(([name, range]) => this.rangeField(name, range)),
    );
    if (this.details.open) this.fillLabels();
  },

  labelField() {
    this.choice = make("select", { autocomplete: "off", "aria-label": "Label" });
    this.fillChoice(clusterView.entry.labels);
    this.choice.addEventListener("change", () => {
      this.label = this.choice.value;
      this.changed();
    });
    return make("label", { class: "field" }, make("span", {}, "Label"), this.choice);
  },

  /** `labels`: [[label, clips], ...], the most frequent first. */
  fillChoice(labels) {
    const own = this.label.startsWith("is:") ? this.label.slice(3) : null;
    const options = labels.map(([label, count]) => [`is:${label}`, `${label} (${grouped(count)})`]);
    if (own !== null && !labels.some(([label]) => label === own)) options.push([this.label, own]);
    const all = [["", "any"], [NO_LABEL, "without a label"], ...options];
    fillWith(this.choice, all.map(([value, words]) => make("option", { value, selected: value === this.label }, words)));
  },

  /** All labels of the cluster and of those merged into it come with a file that is read when somebody looks. */
  async fillLabels() {
    if (!app.index.labelled) return;
    const { choice } = this;
    const head = headName(app.head);
    try {
      const { labels, clusters, counts } = await load(`data/labels-${head}.js`, `labels/${head}`);
      if (!choice.isConnected) return;
      const columns = new Set(clusterView.holders().map((cluster) => clusters.indexOf(cluster)));
      const sums = new Map();
      for (const [label, column, count] of counts) if (columns.has(column)) sums.set(labels[label], (sums.get(labels[label]) ?? 0) + count);
      this.fillChoice([...sums].sort((a, b) => b[1] - a[1]));
    } catch (error) {
      addTo(this.fields, fault(error.message));
    }
  },

  rangeField(name, { words, most, step }) {
    const input = (side, what) => {
      const field = make("input", { type: "number", min: "0", max: most, step: String(step), inputMode: "decimal", placeholder: what, value: this.ranges[name][side] ?? "", "aria-label": `${words()} ${what}` });
      field.addEventListener("change", () => {
        this.ranges[name][side] = field.value === "" ? null : Math.max(0, Number(field.value));
        this.changed();
      });
      return field;
    };
    return make("div", { class: "field range", role: "group", "aria-label": words() }, make("span", {}, words()), input(0, "from"), make("span", { "aria-hidden": "true" }, "–"), input(1, "to"));
  },

  changed() {
    const text = this.text();
    history.replaceState(null, "", `${routeToCluster(clusterView.number)}${text ? `?${text}` : ""}`);
    this.apply();
  },

  reset() {
    this.read("");
    this.changed();
    this.fillFields();
    this.details.querySelector("summary").focus();
  },

  /** Show what passes, in place of the rows; everything again where there is no filter. */
  async apply() {
    const view = clusterView;
    const holders = view.holders();
    const key = this.isActive() ? `${holders.join()} ${this.text()}` : "";
    const { rows } = view;
    this.wanted = key;
    const found = key ? await this.find(holders).catch((error) => (addTo(rows, fault(error.message)), null)) : null;
    if (this.wanted !== key || !rows.isConnected) return;
    view.matched = found;
    rows.classList.toggle("filtered", found !== null);
    this.say(found, holders);
    view.fillArrivals();
    view.refreshMembers();
  },

  say(found, holders) {
    const all = holders.reduce((sum, cluster) => sum + indexView.entry(cluster).size, 0);
    this.status.textContent = found ? `${grouped(found.length)} of ${plural(all, "clip")} shown.` : "";
    fillWith(this.acts,
      found ? button("Show all clips again", () => this.reset(), { class: "link" }) : null,
      found?.length ? button(`Select ${found.length === 1 ? "it" : "them all"}`, () => this.select(found), { class: "link" }) : null,
    );
  },

  select(found) {
    for (const [cluster, , id] of found) selection.set(`${cluster}/${id}`, { cluster, id });
    refreshTiles();
    dock.refresh();
  },
};
