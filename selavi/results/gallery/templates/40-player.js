// Players.  One clip sounds at a time; a browser allows few players, so the last four keep their media and no others.

const MOST_PLAYERS = 4;

const player = {
  sounding: null, // a tile (see 50-tiles.js) that plays with sound
  watching: null, // a tile that plays silently under the pointer
  attached: [], // tiles with a media element, the oldest first
  queue: [], // tiles to sound after this one
  settings: { volume: 1, muted: false },
  pending: 0,

  start() {
    Object.assign(this.settings, storage.read("selavi.sound"));
    this.onScreen = new IntersectionObserver((entries) => {
      for (const entry of entries)
        if (!entry.isIntersecting) {
          const tile = this.attached.find((each) => each.element === entry.target);
          if (tile) this.detach(tile);
        }
    });
  },

  /** Move the play heads for as long as something plays. */
  follow() {
    cancelAnimationFrame(this.frame);
    if (!this.sounding && !this.watching) return;
    for (const tile of [this.sounding, this.watching]) if (tile) this.advance(tile);
    this.frame = requestAnimationFrame(() => this.follow());
  },

  attach(tile) {
    if (tile.video) return tile.video;
    while (this.attached.length >= MOST_PLAYERS)
      this.detach(this.attached.find((each) => each !== this.sounding) ?? this.attached[0]);
    const video = make("video", { preload: "none", playsInline: true, muted: true, tabIndex: -1, disablePictureInPicture: true });
    video.src = tile.clip.media;
    video.addEventListener("playing", () => tile.element.classList.toggle("moving", video.videoWidth > 0));
    video.addEventListener("ended", () => this.ended(tile));
    video.addEventListener("error", () => {
      if (video.hasAttribute("src")) this.fail(tile);
    });
    tile.video = video;
    addTo(tile.frame, video);
    this.attached.push(tile);
    this.onScreen.observe(tile.element);
    return video;
  },

  detach(tile) {
    if (this.sounding === tile) this.stop();
    if (this.watching === tile) this.unwatch();
    this.onScreen.unobserve(tile.element);
    this.attached = this.attached.filter((each) => each !== tile);
    const video = tile.video;
    tile.video = null;
    if (!video) return;
    video.pause();
    video.removeAttribute("src");
    video.load(); // frees the decoder
    video.remove();
  },

  detachAll() {
    this.queue = [];
    for (const tile of [...this.attached]) this.detach(tile);
  },

  play(tile, { silent, from = 0 }) {
    const video = this.attach(tile);
    video.muted = silent || this.settings.muted;
    video.volume = this.settings.volume;
    video.currentTime = tile.clip.start + from * (tile.clip.duration ?? 0);
    video.play().catch((error) => {
      if (error.name === "NotSupportedError") this.fail(tile);
    });
    this.follow();
  },

  rest(tile) {
    tile.video?.pause();
    tile.element.classList.remove("moving", "sounding");
    tile.button.setAttribute("aria-pressed", "false");
    tile.head.style.transform = "";
  },

  stop() {
    const tile = this.sounding;
    this.sounding = null;
    if (tile) this.rest(tile);
    dock.refresh();
  },

  unwatch() {
    clearTimeout(this.pending);
    const tile = this.watching;
    this.watching = null;
    if (tile) this.rest(tile);
  },

  /** Sound a tile, or silence it where it sounds; `from` is a share of the clip, null from its start.  A still picture
      is opened in its full size. */
  async listen(tile, from = null) {
    const again = this.sounding === tile && from === null;
    this.unwatch();
    this.stop();
    if (again) {
      this.queue = [];
      return;
    }
    if (tile.clip.media === undefined) await tile.complete();
    if (!tile.clip.media) {
      tile.warn("no media file");
      say(`${lastPart(tile.clip.id)} has no media file: it was missing when the gallery was written.`);
      this.next();
      return;
    }
    if (tile.clip.kind === "picture") {
      this.queue = [];
      open(tile.clip.media, "_blank", "noopener");
      return;
    }
    this.sounding = tile;
    tile.element.classList.add("sounding");
    tile.button.setAttribute("aria-pressed", "true");
    this.play(tile, { silent: false, from: from ?? 0 });
    dock.refresh();
  },

  /** Sound tiles one after another. */
  listenAll(tiles) {
    this.queue = tiles.slice(1);
    if (tiles.length && this.sounding !== tiles[0]) this.listen(tiles[0]);
  },

  next() {
    const tile = this.queue.shift();
    if (tile) this.listen(tile);
  },

  watch(tile) {
    this.unwatch();
    if (tile === this.sounding || reducedMotion.matches || tile.faulty || !tile.clip.media || tile.clip.kind === "picture") return;
    this.pending = setTimeout(() => {
      this.watching = tile;
      this.play(tile, { silent: true });
    }, 140); // a pointer on its way elsewhere starts nothing
  },

  advance(tile) {
    const { video, clip } = tile;
    if (!video || !(video.duration > 0)) return;
    const length = clip.duration ?? video.duration - clip.start;
    const share = (video.currentTime - clip.start) / length;
    tile.head.style.transform = `translateX(${100 * clamp(share, 0, 1)}%)`;
    if (share >= 1 && !video.paused) this.ended(tile);
  },

  ended(tile) {
    if (tile === this.watching) {
      tile.video.currentTime = tile.clip.start;
      tile.video.play().catch(() => {});
      return;
    }
    if (tile !== this.sounding) return;
    this.stop();
    this.next();
  },

  fail(tile) {
    const wasSounding = this.sounding === tile;
    tile.faulty = true;
    this.detach(tile);
    tile.warn(tile.clip.playable ? "cannot be opened" : "not playable here");
    if (!wasSounding) return;
    say(
      tile.clip.playable
        ? `This browser cannot open ${tile.clip.path}: has the file been moved?`
        : `This browser cannot play ${tile.clip.path}.  Export again with --media transcode.`,
    );
    this.next();
  },

  change(settings) {
    Object.assign(this.settings, settings);
    storage.write("selavi.sound", this.settings);
    const video = this.sounding?.video;
    if (video) {
      video.volume = this.settings.volume;
      video.muted = this.settings.muted;
    }
    dock.refresh();
  },

  toggleMute() {
    this.change({ muted: !this.settings.muted });
    say(this.settings.muted ? "Muted." : "Sound is on.");
  },
};
