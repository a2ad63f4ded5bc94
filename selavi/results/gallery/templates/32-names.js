// Names, merges, splits and rejections: rows of names.csv, laid over clusters that stay as they were found.

const keyOf = (row) => `${row.head}/${row.cluster}${row.id === null ? "" : `/${row.id}`}`;
const isEmpty = (row) => !row.name && row.into === null && !row.rejected;
const sameRow = (a, b) => JSON.stringify(a ?? null) === JSON.stringify(b ?? null);
const asMap = (rows) => new Map(rows.map((row) => [keyOf(row), row]));
const tidy = ({ head, cluster, id, name, into, rejected }) =>
  ({ head, cluster, id: id ?? null, name: name ?? "", into: into ?? null, rejected: Boolean(rejected) });

const EDITS_KEPT = 200; // that can be undone after a reload

const names = {
  rows: new Map(),
  saved: new Map(), // as the gallery was written with, or as last downloaded
  past: [], // what undo puts back: [words, [[key, row before, row after], ...]]
  future: [], // what redo does again, the same
  views: new Map(), // head -> overlay, made anew after an edit
  listeners: new Set(),

  storageKey: () => `selavi.names.${app.index.key}`,

  /** Edits written with the gallery come first; those made here since, and not yet downloaded, lie over them. */
  start() {
    const written = app.index.names.map(tidy);
    const kept = storage.read(this.storageKey());
    this.rows = asMap(written);
    this.saved = asMap(written);
    if (kept && JSON.stringify(kept.written) === JSON.stringify(written)) {
      this.take(kept);
    } else if (kept) {
      const [rows, saved] = [asMap(kept.rows), asMap(kept.saved)];
      for (const key of new Set([...rows.keys(), ...saved.keys()]))
        if (!sameRow(rows.get(key), saved.get(key))) this.put(key, rows.get(key));
    }
    this.keep();
    addEventListener("storage", (event) => {
      const other = event.key === this.storageKey() && event.newValue ? storage.read(this.storageKey()) : null;
      if (!other) return; // another tab of this gallery was edited
      this.take(other);
      this.changed();
    });
  },

  keep() {
    storage.write(this.storageKey(), {
      written: app.index.names.map(tidy),
      rows: [...this.rows.values()],
      saved: [...this.saved.values()],
      past: this.past.slice(-EDITS_KEPT),
      future: this.future.slice(-EDITS_KEPT),
    });
  },

  /** What was kept: by another visit, or in another tab. */
  take({ rows, saved, past = [], future = [] }) {
    this.rows = asMap(rows);
    this.saved = asMap(saved);
    this.past = past;
    this.future = future;
  },

  put(key, row) {
    if (row && !isEmpty(row)) this.rows.set(key, row);
    else this.rows.delete(key);
  },

  changed() {
    this.views.clear();
    for (const listener of this.listeners) listener();
  },

  /** Change rows: [[{head, cluster, id}, {changed fields}], ...]; `words` says what was done. */
  edit(words, changes) {
    const rows = [];
    for (const [place, change] of changes) {
      const key = keyOf(place);
      const before = this.rows.get(key);
      const after = tidy({ ...place, ...before, ...change });
      rows.push([key, before, after]);
      this.put(key, after);
    }
    this.did(words, rows);
  },

  /** Note an edit that was made, and say so. */
  did(words, rows) {
    this.past.push([words, rows]);
    this.future = [];
    this.keep();
    this.changed();
    say(`${words}.`, ["Undo", () => this.undo()]);
  },

  undo() {
    this.step(this.past, this.future, (rows) => rows.reverse().map(([key, before]) => [key, before]), "Undone", "Nothing to undo.");
  },

  redo() {
    this.step(this.future, this.past, (rows) => rows.map(([key, , after]) => [key, after]), "Done again", "Nothing to do again.");
  },

  /** Take the last edit of one list over to the other, and put its rows where `towards` says. */
  step(from, to, towards, words, nothing) {
    const last = from.pop();
    if (!last) {
      say(nothing);
      return;
    }
    to.push(last);
    for (const [key, row] of towards([...last[1]])) this.put(key, row);
    this.keep();
    this.changed();
    say(`${words}: ${last[0]}.`);
  },

  sorted() {
    const byIdText = (a, b) => (a.id ?? "") < (b.id ?? "") ? -1 : 1;
    return [...this.rows.values()].sort((a, b) => a.head - b.head || a.cluster - b.cluster || byIdText(a, b));
  },

  /** Edits that names.csv on disk does not have. */
  numUnsaved() {
    const keys = new Set([...this.rows.keys(), ...this.saved.keys()]);
    return [...keys].filter((key) => !sameRow(this.rows.get(key), this.saved.get(key))).length;
  },

  download() {
    saveAs("names.csv", writeCsv(this.sorted()));
    this.saved = new Map(this.rows);
    this.keep();
    this.changed();
    say("names.csv is in your downloads.  The page “Names” says how the tools read it.");
  },

  replaceAll(rows, words) {
    const next = asMap(rows.map(tidy));
    const changed = [...new Set([...this.rows.keys(), ...next.keys()])].map((key) => [key, this.rows.get(key), next.get(key)]);
    this.rows = new Map([...next].filter(([, row]) => !isEmpty(row)));
    this.did(words, changed);
  },

  /** What the edits make of one head. */
  overlay(head = app.head) {
    if (!this.views.has(head.head)) this.views.set(head.head, layOver(head, [...this.rows.values()]));
    return this.views.get(head.head);
  },
};

/** Whether a person said of a clip that it is right where it is. */
const isConfirmed = (row) => row.id !== null && row.into === row.cluster;

const layOver = (head, rows) => {
  const own = rows.filter((row) => row.head === head.head);
  const clusters = new Map(own.filter((row) => row.id === null).map((row) => [row.cluster, row]));
  const clips = own.filter((row) => row.id !== null);
  const numbers = new Set(head.clusters.map((cluster) => cluster.cluster));
  const created = new Set();
  for (const row of own) {
    if (row.into !== null && !numbers.has(row.into)) created.add(row.into);
    if (row.id === null && !numbers.has(row.cluster)) created.add(row.cluster);
  }
  const final = (cluster) => {
    const passed = new Set();
    while (!passed.has(cluster)) {
      passed.add(cluster);
      const into = clusters.get(cluster)?.into;
      if (into !== null && into !== undefined) cluster = into;
    }
    return cluster;
  };
  const sizes = new Map(head.clusters.map((cluster) => [cluster.cluster, cluster.size]));
  const arrivals = new Map();
  for (const row of clips) {
    if (isConfirmed(row)) continue;
    sizes.set(row.cluster, (sizes.get(row.cluster) ?? 0) - 1);
    if (row.into === null) continue;
    sizes.set(row.into, (sizes.get(row.into) ?? 0) + 1);
    arrivals.set(row.into, [...(arrivals.get(row.into) ?? []), row]);
  }
  const merged = new Map();
  for (const row of clusters.values()) {
    if (row.into === null) continue;
    merged.set(row.into, [...(merged.get(row.into) ?? []), row.cluster]);
  }
  const whole = (cluster, passed = new Set()) => {
    if (passed.has(cluster)) return 0;
    passed.add(cluster);
    return (merged.get(cluster) ?? []).reduce((sum, each) => sum + whole(each, passed), sizes.get(cluster) ?? 0);
  };
  const clipRows = new Map(clips.map((row) => [`${row.cluster}/${row.id}`, row]));
  return {
    created: [...created].sort((a, b) => a - b),
    arrivals: (cluster) => arrivals.get(cluster) ?? [],
    mergedInto: (cluster) => merged.get(cluster) ?? [],
    nameOf: (cluster) => clusters.get(cluster)?.name || "",
    into: (cluster) => clusters.get(cluster)?.into ?? null,
    rejected: (cluster) => clusters.get(cluster)?.rejected ?? false,
    sizeOf: (cluster) => whole(cluster),
    final,
    clip: (cluster, id) => clipRows.get(`${cluster}/${id}`),
    firstFree: [...created].reduce((most, number) => Math.max(most, number + 1), 0),
  };
};

/** A cluster in words: its name, else its number. */
const spoken = (cluster) => {
  const name = names.overlay().nameOf(cluster);
  return name ? `${cluster} “${name}”` : String(cluster);
};

const edits = {
  nameCluster(cluster, name) {
    const words = name ? `Cluster ${cluster} is named “${name}”` : `Cluster ${cluster} has no name now`;
    names.edit(words, [[{ head: app.head.head, cluster, id: null }, { name }]]);
  },
  merge(cluster, into) {
    if (names.overlay().final(into) === cluster) {
      say(cluster === into ? "A cluster cannot be merged into itself." : `Cluster ${into} is already part of ${cluster}.`);
      return;
    }
    names.edit(`Cluster ${spoken(cluster)} is merged into ${spoken(into)}`, [
      [{ head: app.head.head, cluster, id: null }, { into, rejected: false }],
    ]);
  },
  /** Merge clusters into the one of them that has a name, else into the largest. */
  join(clusters) {
    const overlay = names.overlay();
    const finals = [...new Set(clusters.map(overlay.final))];
    if (finals.length < 2) {
      say("They are one cluster already.");
      return;
    }
    const [into, ...others] = finals.sort((a, b) => Boolean(overlay.nameOf(b)) - Boolean(overlay.nameOf(a)) || overlay.sizeOf(b) - overlay.sizeOf(a) || a - b);
    const words = others.length === 1 ? `Cluster ${spoken(others[0])} is` : `${plural(others.length, "cluster")} are`;
    names.edit(`${words} merged into ${spoken(into)}`, others.map((cluster) => [{ head: app.head.head, cluster, id: null }, { into, rejected: false }]));
  },
  rejectClusters(clusters) {
    names.edit(`${plural(clusters.length, "cluster")} rejected`, clusters.map((cluster) => [{ head: app.head.head, cluster, id: null }, { into: null, rejected: true }]));
  },
  nameClusters(clusters, name) {
    names.edit(`${plural(clusters.length, "cluster")} named “${name}”`, clusters.map((cluster) => [{ head: app.head.head, cluster, id: null }, { name }]));
  },
  rejectCluster(cluster) {
    names.edit(`Cluster ${spoken(cluster)} is rejected`, [[{ head: app.head.head, cluster, id: null }, { into: null, rejected: true }]]);
  },
  restoreCluster(cluster) {
    names.edit(`Cluster ${spoken(cluster)} stands for itself again`, [
      [{ head: app.head.head, cluster, id: null }, { into: null, rejected: false }],
    ]);
  },
  /** Clips are {cluster, id}, the cluster being the one that they were found in. */
  changeClips(words, clips, change) {
    names.edit(words, clips.map(({ cluster, id }) => [{ head: app.head.head, cluster, id }, change]));
  },
  moveClips(clips, into) {
    const away = clips.filter((clip) => clip.cluster !== into);
    const home = clips.filter((clip) => clip.cluster === into);
    names.edit(`${plural(clips.length, "clip")} moved to cluster ${spoken(into)}`, [
      ...away.map(({ cluster, id }) => [{ head: app.head.head, cluster, id }, { into, rejected: false }]),
      ...home.map(({ cluster, id }) => [{ head: app.head.head, cluster, id }, { into: null, rejected: false }]),
    ]);
  },
  confirmClips(clips) {
    const words = clips.length === 1 ? "1 clip is right where it is" : `${clips.length} clips are right where they are`;
    names.edit(words, clips.map(({ cluster, id }) => [{ head: app.head.head, cluster, id }, { into: cluster, rejected: false }]));
  },
  split(clips) {
    const number = Math.max(app.firstNew, names.overlay().firstFree);
    this.changeClips(`${plural(clips.length, "clip")} split off into the new cluster ${number}`, clips, { into: number, rejected: false });
    return number;
  },
  rejectClips(clips) {
    this.changeClips(`${plural(clips.length, "clip")} rejected`, clips, { into: null, rejected: true });
  },
  restoreClips(clips) {
    this.changeClips(`${plural(clips.length, "clip")} put back`, clips, { into: null, rejected: false });
  },
};
