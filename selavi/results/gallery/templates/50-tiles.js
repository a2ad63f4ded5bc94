// Tiles: one clip each, a frame above its spectrogram; and the keys that move among them.

const selection = new Map(); // cluster/id -> {cluster, id}
let shownTiles = [];

const tileKey = (clip) => `${clip.cluster}/${clip.id}`;

/** Images of one thumbnail file: its frames (one is seen at a time), or its spectrogram stretched over the place. */
const picture = (src, part, alt) =>
  make("img", { class: part, src, alt, loading: "lazy", decoding: "async", draggable: false });

/** The boxes that a clip's evidence points at, drawn on the whole of its thumbnail; null where there are none. */
const boxesOf = (clip, part) => {
  if (!clip.boxes) return null;
  const { tile } = app.index;
  const size = `0 0 ${4 * tile.width} ${tile.height + tile.spectrogram}`;
  const edges = clip.boxes.map(([x, y, width, height]) => shape("rect", { x, y, width, height }));
  return shape("svg", { class: `${part} boxes`, viewBox: size, preserveAspectRatio: "none", "aria-hidden": "true" }, edges);
};

/** Whether there is anything to show of why a clip is in its cluster. */
const isExplained = (clip) => Boolean(clip.evidence || clip.boxes);

/** What the columns of the user's table say of a clip. */
const ownTexts = (clip) => (clip.texts ?? []).filter((text) => text !== null && text !== "");

class Tile {
  /** `clip`: of 20-data.js; `usual`: the cluster's commonest label, others stand out. */
  constructor(clip, usual = null) {
    this.clip = clip;
    this.usual = usual;
    this.video = null;
    this.faulty = false;
    this.build();
    this.refresh();
    shownTiles.push(this);
  }

  build() {
    const { clip } = this;
    const { tile } = app.index;
    const inWords = app.index.words;
    const still = clip.kind === "picture";
    const soundOnly = clip.kind === "audio" || !tile.frames;
    this.frame = make("span", { class: "frame" });
    this.head = make("span", { class: "playhead" });
    this.sound = make("span", { class: "sound" }, make("span", { class: "track" }, this.head));
    this.note = make("span", { class: "note" });
    this.button = make(
      "button",
      { type: "button", class: "tile", tabIndex: -1, "aria-pressed": "false", "aria-label": this.spoken() },
      inWords ? this.inWords() : this.frame,
      tile.spectrogram > 0 ? this.sound : null,
      this.note,
      inWords || still ? null : make("span", { class: "sign", "aria-hidden": "true" }, icon("play"), make("i"), make("i"), make("i")),
    );
    if (soundOnly && !inWords && tile.frames) addTo(this.frame, make("span", { class: "kind" }, icon("sound"), "sound only"));
    this.pick = make("input", { type: "checkbox", tabIndex: -1, "aria-label": `Select ${this.spoken()}` });
    this.name = make("span", { class: "file", title: clip.id }, userText(lastPart(clip.id)));
    this.line = make("span", { class: "line" });
    this.element = make(
      "li",
      { class: inWords ? "clip in-words" : soundOnly ? "clip sound-only" : "clip" },
      this.button,
      make("label", { class: "pick" }, this.pick),
      make("p", { class: "caption" }, this.name, inWords ? null : ownTexts(clip).map((text) => userText(text, "own-text")), this.line),
    );
    this.show();
    this.button.addEventListener("click", (event) => this.click(event));
    this.button.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && player.watch(this));
    this.button.addEventListener("pointerleave", () => player.watching === this || player.pending ? player.unwatch() : null);
    this.button.addEventListener("focus", () => dock.inspect(this));
    this.pick.addEventListener("change", () => toggleSelected(this));
    clipView.listenTo(this);
  }

  /** What stands for a clip of which there is nothing to see or hear: a picture of the user's, texts, or its id. */
  inWords() {
    const { clip } = this;
    const texts = ownTexts(clip);
    return make(
      "span",
      { class: "words" },
      clip.picture ? picture(clip.picture, "whole", this.spoken()) : null,
      (texts.length || clip.picture ? texts : [clip.id]).map((text) => userText(text)),
    );
  }

  spoken() {
    const { clip } = this;
    const place = clip.number ? `clip ${clip.number}` : "clip";
    return `${place} of cluster ${clip.cluster}${clip.label === null || clip.label === undefined ? "" : `, ${clip.label}`}`;
  }

  /** Pictures and caption of the clip as far as it is known. */
  show() {
    const { clip, frame, sound } = this;
    if (app.index.words) {
      // its words are there already
    } else if (clip.thumb) {
      const first = picture(clip.thumb, this.element.classList.contains("sound-only") ? "wave" : "picture", this.spoken());
      first.addEventListener("error", () => this.blank());
      frame.prepend(first);
      if (sound) sound.prepend(picture(clip.thumb, "wave", ""));
    } else {
      this.blank();
    }
    this.line.replaceChildren();
    if (clip.label !== null && clip.label !== undefined) {
      const odd = this.usual !== null && clip.label !== this.usual;
      addTo(this.line, make("span", { class: odd ? "label odd" : "label", title: clip.label }, userText(clip.label)));
    }
    if (clip.confidence !== undefined)
      addTo(this.line, make("span", { class: "score", title: "confidence" }, decimals(clip.confidence)));
    if (app.index.words) return;
    if (clip.media === null) this.warn("no media file");
    else if (clip.playable === false) this.warn(clip.kind === "picture" ? "may not open here" : "may not play here");
  }

  blank() {
    this.frame.querySelector("img")?.remove();
    this.sound.querySelector("img")?.remove();
    if (!this.frame.querySelector(".blank")) this.frame.prepend(make("span", { class: "blank" }, icon("no-picture"), "no picture"));
    const { media, playable, kind } = this.clip;
    if (media && playable !== false && kind === "video" && !this.frame.querySelector(".still")) stills.want(this);
  }

  warn(text) {
    this.note.textContent = text;
    this.element.classList.add("warned");
    this.button.setAttribute("aria-label", `${this.spoken()}: ${text}`);
  }

  /** The map knows ids and thumbnails alone; the rest comes from the cluster's file. */
  async complete() {
    const clip = await findClip(this.clip.cluster, this.clip.id).catch(() => null);
    Object.assign(this.clip, clip ?? { media: null });
    if (app.index.words) this.button.querySelector(".words").replaceWith(this.inWords());
    this.show();
  }

  click(event) {
    if (event.shiftKey) {
      toggleSelected(this, true);
      return;
    }
    if (app.index.words) {
      if (this.clip.confidence === undefined) this.complete().then(() => dock.refresh());
      dock.inspect(this);
      return;
    }
    const place = this.sound.getBoundingClientRect();
    const onSound = event.detail > 0 && event.clientY > place.top && place.height > 0;
    player.queue = [];
    player.listen(this, onSound ? clamp((event.clientX - place.left) / place.width, 0, 1) : null);
    dock.inspect(this);
  }

  /** Selection, edits, evidence and boxes as they are now. */
  refresh() {
    const { clip, element } = this;
    const chosen = selection.has(tileKey(clip));
    this.pick.checked = chosen;
    element.classList.toggle("chosen", chosen);
    const row = names.overlay().clip(clip.cluster, clip.id);
    const confirmed = Boolean(row) && isConfirmed(row);
    const isHere = row && !confirmed && row.into !== null && route.view === "cluster" && names.overlay().final(row.into) === clusterView.number;
    element.classList.toggle("gone", Boolean(row) && !isHere && !confirmed);
    this.name.parentNode.querySelector(".fate")?.remove();
    if (row) {
      const text = row.rejected ? "rejected" : confirmed ? "confirmed" : isHere ? `from cluster ${spoken(row.cluster)}` : `now in ${spoken(row.into)}`;
      this.name.parentNode.prepend(make("span", { class: "fate" }, userText(text)));
    }
    const overlay = evidence.shown && clip.evidence;
    for (const place of element.querySelectorAll("img.overlay")) if (!overlay) place.remove();
    if (overlay && !element.querySelector("img.overlay"))
      for (const [place, part] of [[this.frame, "picture"], [this.sound, "wave"]])
        place.querySelector("img")?.after(picture(clip.evidence, `${part} overlay`, ""));
    element.querySelector("svg.boxes")?.remove();
    if (evidence.shown && clip.boxes) [...this.frame.querySelectorAll("img")].at(-1)?.after(boxesOf(clip, "picture"));
  }
}

const evidence = {
  shown: false,
  toggle() {
    this.shown = !this.shown;
    storage.write("selavi.evidence", this.shown);
    refreshTiles();
    dock.refresh();
  },
};

const refreshTiles = () => {
  for (const tile of shownTiles) tile.refresh();
};

const forgetTiles = () => {
  player.detachAll();
  shownTiles = [];
  dock.inspect(null);
};

const tileOf = (element) => shownTiles.find((tile) => tile.element.contains(element));

let lastPicked = null;
/** Select a tile or not; with `range`, all from the one picked before to this one. */
const toggleSelected = (tile, range = false) => {
  const tiles = shownTiles.filter((each) => each.element.isConnected && each.element.parentNode === tile.element.parentNode);
  const [from, to] = [tiles.indexOf(lastPicked), tiles.indexOf(tile)].sort((a, b) => a - b);
  const picked = range && from >= 0 ? tiles.slice(from, to + 1) : [tile];
  const chosen = range || !selection.has(tileKey(tile.clip));
  for (const { clip } of picked) {
    if (chosen) selection.set(tileKey(clip), { cluster: clip.cluster, id: clip.id });
    else selection.delete(tileKey(clip));
  }
  lastPicked = tile;
  refreshTiles();
  dock.refresh();
};

const clearSelection = () => {
  selection.clear();
  refreshTiles();
  dock.refresh();
};

const tileGrid = (tiles, label) => {
  const grid = make("ol", { class: "tiles", "aria-label": label, "data-grid": "" }, tiles.map((tile) => tile.element));
  if (tiles.length) tiles[0].button.tabIndex = 0;
  return grid;
};

/** Arrow keys move among the elements of `selector` in `container`; each [data-grid] in it is one stop of the Tab key. */
const rove = (container, selector) => {
  container.addEventListener("focusin", ({ target }) => {
    if (!target.matches(selector)) return;
    for (const other of target.closest("[data-grid]").querySelectorAll(selector)) other.tabIndex = other === target ? 0 : -1;
  });
  container.addEventListener("keydown", (event) => {
    if (!event.target.matches(selector) || event.ctrlKey || event.metaKey || event.altKey) return;
    const items = [...container.querySelectorAll(selector)].filter((item) => item.offsetParent !== null);
    const at = items.indexOf(event.target);
    const next = {
      ArrowLeft: () => items[at - 1],
      ArrowRight: () => items[at + 1],
      ArrowUp: () => nearestInLine(items, event.target, -1),
      ArrowDown: () => nearestInLine(items, event.target, 1),
      Home: () => items[0],
      End: () => items[items.length - 1],
    }[event.key];
    if (!next) return;
    event.preventDefault();
    const item = next();
    item?.focus({ preventScroll: true });
    item?.scrollIntoView({ block: "nearest" });
  });
};

/** The item of the next line below (1) or above (-1) that lies nearest to this one's middle. */
const nearestInLine = (items, from, direction) => {
  const middle = (box) => box.left + box.width / 2;
  const here = from.getBoundingClientRect();
  let best = null;
  let least = Infinity;
  for (const item of items) {
    const box = item.getBoundingClientRect();
    const down = direction * (box.top - here.top);
    if (down < here.height / 2) continue;
    const distance = 1e4 * Math.round(down) + Math.abs(middle(box) - middle(here));
    if (distance < least) [best, least] = [item, distance];
  }
  return best;
};
