// Data files: classic scripts, loaded on demand, that call the functions of `selavi` (a page opened from disk may not fetch).

const received = new Map();
const selavi = {
  index: (value) => received.set("index", value),
  members: (cluster, value) => received.set(`${cluster}/${value.part}`, value),
  map: (value) => received.set("map", value),
  ids: (part, value) => received.set(`ids/${part}`, value),
  labels: (head, value) => received.set(`labels/${head}`, value),
  pairs: (head, value) => received.set(`pairs/${head}`, value),
  cross: (heads, value) => received.set(`cross/${heads}`, value),
  colours: (name, value) => received.set(`colours/${name}`, value),
};

const MEMBER_PARTS_KEPT = 30;
const underway = new Map();

/** The value that a file registers under `name`; rejects with a sentence for the user. */
const load = (file, name) => {
  if (received.has(name)) return Promise.resolve(received.get(name));
  if (underway.has(name)) return underway.get(name);
  const promise = new Promise((resolve, reject) => {
    const script = make("script", { src: file });
    const end = (problem) => {
      script.remove();
      underway.delete(name);
      if (received.has(name)) resolve(received.get(name));
      else reject(new Error(`${file} ${problem}: copy the gallery's whole folder, or export it again.`));
    };
    script.onload = () => end("holds nothing for this page");
    script.onerror = () => end("cannot be read");
    addTo(document.head, script);
  });
  underway.set(name, promise);
  return promise;
};

const forgetOldMembers = () => {
  const parts = [...received.keys()].filter((name) => /^h\d+\/c\d+\//.test(name));
  for (const name of parts.slice(0, Math.max(0, parts.length - MEMBER_PARTS_KEPT))) received.delete(name);
};

/** What the page shows: the index, one head of it, and the order in which clusters were listed last. */
const app = { index: null, head: null, clusters: new Map(), firstNew: 0, order: [] };

const chooseHead = (number) => {
  const head = app.index.heads.find((each) => each.head === number) || app.index.heads[0];
  if (head === app.head) return;
  app.head = head;
  app.clusters = new Map(head.clusters.map((cluster) => [cluster.cluster, cluster]));
  app.firstNew = head.clusters.reduce((most, cluster) => Math.max(most, cluster.cluster + 1), 0);
  app.order = head.clusters.map((cluster) => cluster.cluster);
};

const headName = (head) => `h${head.head}`;

/** The address of a view under the head shown; the chosen head needs no mention. */
const routeTo = (place) =>
  `#/${app.head.head === app.index.chosenHead ? "" : `h${app.head.head}/`}${place}`;
const routeToCluster = (cluster) => routeTo(`cluster/${cluster}`);
const routeToClip = (cluster, id) => `${routeToCluster(cluster)}/clip/${encodeURIComponent(id)}`;

const loadPart = async (cluster, part) => {
  const head = headName(app.head);
  const file = `data/${head}/c${cluster}${part ? `-${part}` : ""}.js`;
  const value = await load(file, `${head}/c${cluster}/${part}`);
  forgetOldMembers();
  return value;
};

const COLUMNS = [
  "id", "row", "path", "label", "confidence", "margin", "entropy", "agreement", "heads", "start", "duration", "media", "playable", "kind", "thumb", "evidence", "boxes", "texts", "picture",
];

/** One clip, from the columns of a data file; `number` counts from 1 within its cluster, most confident first. */
const clipAt = (columns, index, cluster, number) => {
  const clip = { cluster, number };
  for (const name of COLUMNS) clip[name] = columns[name]?.[index];
  return clip;
};

/** A clip by its number in the rows of part 0: of the part itself, or one of the extra clips behind it. */
const clipInRows = (part, index, cluster) => {
  const own = part.id.length;
  if (index < own) return clipAt(part, index, cluster, index + 1);
  const clip = clipAt(part.extra, index - own, cluster, null);
  return clip;
};

/** Members first..last-1 of a cluster. */
const loadClips = async (cluster, first, last) => {
  const start = await loadPart(cluster, 0);
  const size = start.id.length;
  const clips = [];
  for (let part = Math.floor(first / size); part * size < last; part += 1) {
    const columns = part ? await loadPart(cluster, part) : start;
    const end = Math.min(last, part * size + columns.id.length);
    for (let index = Math.max(first, part * size); index < end; index += 1)
      clips.push(clipAt(columns, index - part * size, cluster, index + 1));
  }
  return clips;
};

/** The clip of that id, or null.  Reads the cluster's parts one after another until it is found. */
const findClip = async (cluster, id) => {
  const parts = app.clusters.get(cluster)?.parts || 0;
  let before = 0;
  for (let part = 0; part < parts; part += 1) {
    const columns = await loadPart(cluster, part);
    const index = columns.id.indexOf(id);
    if (index >= 0) return clipAt(columns, index, cluster, before + index + 1);
    before += columns.id.length;
  }
  return null;
};

const numIdFiles = () => Math.ceil(app.index.numClips / 20000);
const loadIds = (part) => load(`data/ids-${part}.js`, `ids/${part}`);

const decodeArray = (text, Type) => {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i += 1) bytes[i] = binary.charCodeAt(i);
  return new Type(bytes.buffer);
};
