// The rows of the clips selected, as a CSV for other tools.

const CLIP_HEADER = [
  "id", "path", "start_s", "duration_s", "head", "cluster", "now_in", "name", "rejected", "label", "confidence", "margin", "entropy", "modality_agreement",
];

/** A clip's cells: `cluster` is where it was found, `now_in` and `name` are what the edits make of it. */
const clipCells = (clip) => {
  const overlay = names.overlay();
  const row = overlay.clip(clip.cluster, clip.id);
  const nowIn = overlay.final(row?.into ?? clip.cluster);
  const rejected = row?.into === null || !row ? Boolean(row?.rejected) || overlay.rejected(nowIn) : overlay.rejected(nowIn);
  const { id, path, start, duration, label, confidence, margin, entropy, agreement } = clip;
  return [id, path, start, duration, app.head.head, clip.cluster, nowIn, overlay.nameOf(nowIn), rejected ? "1" : "", label, confidence, margin, entropy, agreement];
};

/** Clips of a cluster by their ids, most confident first; reads the cluster's files one after another. */
const findClips = async (cluster, ids) => {
  const found = [];
  const parts = app.clusters.get(cluster)?.parts ?? 0;
  for (let part = 0; part < parts && found.length < ids.size; part += 1) {
    const columns = await loadPart(cluster, part);
    columns.id.forEach((id, index) => ids.has(id) && found.push(clipAt(columns, index, cluster, part * app.index.membersPart + index + 1)));
  }
  return found;
};

/** Save the rows of the clips selected, cluster by cluster. */
const saveSelection = async () => {
  const wanted = new Map();
  for (const { cluster, id } of selection.values()) wanted.set(cluster, (wanted.get(cluster) ?? new Set()).add(id));
  const lines = [[...CLIP_HEADER, ...app.index.columns]];
  try {
    for (const cluster of [...wanted.keys()].sort((a, b) => a - b)) {
      const clips = await findClips(cluster, wanted.get(cluster));
      for (const clip of clips) lines.push([...clipCells(clip), ...(clip.texts ?? [])]);
    }
  } catch (error) {
    say(error.message);
    return;
  }
  saveAs("clips.csv", csvText(lines));
  say(`clips.csv with ${plural(lines.length - 1, "clip")} is in your downloads.`);
};
