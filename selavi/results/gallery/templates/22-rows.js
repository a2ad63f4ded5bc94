// Clips by their row in the run: each one's place under every head, its nearest clips, the order of the work queue.

const ROW_FILES_KEPT = 30;
const UNKNOWN = 65535; // where a figure is not known
const SHARES = 10000; // steps of a confidence or an agreement
const NUM_NEAR = 10;

/** The columns of a data file, each decoded from base64; what is not known stays null. */
const decodeColumns = (columns, types) =>
  Object.fromEntries(Object.entries(columns).map(([name, text]) => [name, text === null ? null : decodeArray(text, types[name])]));

selavi.clips = (part, { near, rates, ...heads }) => {
  const places = { cluster: Int32Array, rank: Int32Array, confidence: Uint16Array };
  received.set(`clips/${part}`, {
    near: near === null ? null : decodeArray(near, Int32Array),
    rates,
    heads: new Map(Object.entries(heads).map(([name, columns]) => [name, decodeColumns(columns, places)])),
  });
};

selavi.queue = (head, columns) =>
  received.set(`queue/${head}`, decodeColumns(columns, { confidence: Uint16Array, agreement: Uint16Array, odd: Uint16Array, differs: Uint8Array }));

const loadQueue = () => load(`data/queue-${headName(app.head)}.js`, `queue/${headName(app.head)}`);

const forgetOldRows = () => {
  const parts = [...received.keys()].filter((name) => name.startsWith("clips/"));
  for (const name of parts.slice(0, Math.max(0, parts.length - ROW_FILES_KEPT))) received.delete(name);
};

/** What is known of a row: {rate, near: [rows], heads: [{head, cluster, rank, confidence}]}; rate and near may be null. */
const loadRow = async (row) => {
  const part = Math.floor(row / app.index.rowsPart);
  const columns = await load(`data/clips-${part}.js`, `clips/${part}`);
  forgetOldRows();
  const at = row % app.index.rowsPart;
  const near = columns.near && [...columns.near.subarray(at * NUM_NEAR, (at + 1) * NUM_NEAR)].filter((each) => each >= 0);
  const heads = app.index.heads.map((head) => {
    const { cluster, rank, confidence } = columns.heads.get(headName(head));
    return { head, cluster: cluster[at], rank: rank[at], confidence: !confidence || confidence[at] === UNKNOWN ? null : confidence[at] / SHARES };
  });
  return { rate: columns.rates?.[at] ?? null, near: near?.length ? near : null, heads };
};

/** The clip of a cluster with a rank, from its own file alone. */
const loadRanked = async (cluster, rank) => {
  const size = app.index.membersPart;
  const columns = await loadPart(cluster, Math.floor(rank / size));
  return clipAt(columns, rank % size, cluster, rank + 1);
};

/** The clip of a row, as the head shown has it. */
const loadClipOfRow = async (row) => {
  const { heads } = await loadRow(row);
  const { cluster, rank } = heads.find(({ head }) => head === app.head);
  return loadRanked(cluster, rank);
};
