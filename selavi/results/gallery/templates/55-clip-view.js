// One clip, large, over the view that it was opened from: player, spectrogram, every head, nearest clips.
//
// The address names the clip.  What the browser keeps with it: `under`, the address of the view below, and `depth`, how
// many steps back that view is; an address that somebody opened directly has neither, and lies over the clip's cluster.

const SPEEDS = [0.25, 0.5, 0.75, 1, 1.25, 1.5, 2];
const GUESSED_RATE = 25; // frames a second where the data do not say
const LEAP_S = 1;

/** The address of a clip in a cluster of any head. */
const addressUnder = (head, cluster, id) =>
  `#/${head === app.index.chosenHead ? "" : `h${head}/`}cluster/${cluster}/clip/${encodeURIComponent(id)}`;

/** What the columns of the user's table say, each after its name. */
const ownLines = (clip) =>
  app.index.columns.map((name, i) => (clip.texts?.[i] ? make("p", {}, userText(name, "quiet"), " ", userText(clip.texts[i])) : null));

const routeToLarge = (clip) => routeTo(`large/${clip.cluster}/${encodeURIComponent(clip.id)}`);

const clipView = {
  below: "#/", // address of the view that is drawn
  asked: null, // {cluster, id} that the address names, until it is shown
  tile: null, // that it was opened from, or that the arrows went to
  clip: null,
  rate: null,
  settings: { loop: true, speed: 1 },

  isOpen() {
    return Boolean(this.dialog?.open);
  },

  /** {head, view, cluster, id} of an address behind #/large/. */
  readRoute(head, cluster, rest) {
    try {
      return { head, view: "large", cluster: Number(cluster), id: decodeURIComponent(rest.join("/")) };
    } catch {
      return { head, view: "index" };
    }
  },

  /** The route to draw for a route that is asked for; null where what is drawn already stays. */
  beneath(next) {
    if (next.view !== "large") {
      const stays = this.isOpen() && this.below === location.hash;
      this.below = location.hash;
      this.hide();
      return stays ? null : next;
    }
    this.asked = next;
    if (route.view && app.head.head === next.head) {
      this.settle();
      return null;
    }
    this.below = history.state?.under ?? addressUnder(next.head, next.cluster, next.id);
    return readRoute(this.below);
  },

  /** Show the clip that was asked for, once the view below is drawn. */
  async settle() {
    const { asked } = this;
    this.asked = null;
    if (!asked) return;
    this.open();
    if (!this.tile || tileKey(this.tile.clip) !== tileKey(asked)) this.tile = this.tiles().find((tile) => tileKey(tile.clip) === tileKey(asked)) ?? this.tile;
    const own = this.tile && tileKey(this.tile.clip) === tileKey(asked) ? this.tile.clip : null;
    this.wanted = tileKey(asked);
    try {
      const clip = own?.row === undefined || own?.media === undefined ? await findClip(asked.cluster, asked.id) : own;
      if (!this.isOpen() || this.wanted !== tileKey(asked)) return;
      if (clip) this.show(clip);
      else this.lament(`Cluster ${asked.cluster} holds no clip ${asked.id}.`);
    } catch (error) {
      this.lament(error.message);
    }
  },

  /** Tiles of the view below, as they stand on the page. */
  tiles() {
    const follows = (a, b) => (a.element.compareDocumentPosition(b.element) & Node.DOCUMENT_POSITION_FOLLOWING ? -1 : 1);
    return shownTiles.filter((tile) => tile.element.isConnected).sort(follows);
  },

  /** A tile opens by a double click and by the space bar. */
  listenTo(tile) {
    tile.button.addEventListener("dblclick", (event) => event.shiftKey || tile.clip.kind === "picture" || this.openTile(tile)); // a click opens a picture
    tile.button.addEventListener("keydown", (event) => {
      if (event.key !== " ") return;
      event.preventDefault();
      this.openTile(tile);
    });
    tile.button.addEventListener("keyup", (event) => event.key === " " && event.preventDefault());
  },

  openTile(tile) {
    this.tile = tile;
    this.push(tile.clip, 1);
  },

  /** Show a clip under an address of its own, so that the browser's Back leads to the one before. */
  push(clip, depth) {
    history.pushState({ under: this.below, depth }, "", routeToLarge(clip));
    this.asked = { cluster: clip.cluster, id: clip.id };
    this.settle();
  },

  openNear(clip) {
    const depth = history.state?.depth ?? null;
    this.push(clip, depth === null ? null : depth + 1);
  },

  /** Go to the next (1) or previous (-1) clip of the view below. */
  step(direction) {
    const tiles = this.tiles();
    const next = tiles[tiles.indexOf(this.tile) + direction];
    if (!next || !tiles.length) {
      say(direction > 0 ? "This is the last clip here." : "This is the first clip here.");
      return;
    }
    this.tile = next;
    history.replaceState(history.state, "", routeToLarge(next.clip));
    this.asked = { cluster: next.clip.cluster, id: next.clip.id };
    this.settle();
  },

  open() {
    if (!this.dialog) this.build();
    if (this.dialog.open) return;
    player.unwatch();
    player.stop();
    Object.assign(this.settings, storage.read("selavi.large"));
    this.dialog.showModal();
    addTo(this.dialog, byId("toast")); // what is said stays above
    this.title.focus();
  },

  /** Back to the view below; the browser's own history tells showRoute, which calls hide. */
  close() {
    const depth = history.state?.depth ?? null;
    if (depth !== null) {
      history.go(-depth);
      return;
    }
    history.replaceState(null, "", this.below || "#/");
    this.hide();
  },

  hide() {
    if (!this.isOpen()) return;
    this.unload();
    this.clip = null;
    this.wanted = null;
    addTo(document.body, byId("toast"));
    this.dialog.close();
    const tile = this.tile?.element.isConnected ? this.tile : null;
    this.tile = null;
    tile?.button.focus({ preventScroll: true });
    tile?.element.scrollIntoView({ block: "nearest" });
  },

  build() {
    this.title = make("h2", { id: "clip-title", tabIndex: -1 });
    this.place = make("span", { class: "quiet large-place", role: "status" });
    this.stage = make("div", { class: "large-stage" });
    this.play = button("Play", () => this.toggle(), { class: "primary large-play", "aria-keyshortcuts": "Space" });
    this.loop = button("Loop", () => this.change({ loop: !this.settings.loop }), { class: "toggle", title: "Begin again at the end (l)", "aria-keyshortcuts": "l" });
    this.speed = make("select", { autocomplete: "off" }, SPEEDS.map((speed) => make("option", { value: String(speed) }, `${speed} ×`)));
    this.speed.addEventListener("change", () => this.change({ speed: Number(this.speed.value) }));
    this.time = make("span", { class: "large-time" });
    this.rateWords = make("p", { class: "quiet large-rate" });
    this.transport = make(
      "div",
      { class: "large-transport" },
      this.play,
      button("‹ Frame", () => this.stepFrame(-1), { title: "One frame back ( , )", class: "large-frame", "aria-label": "One frame back", "aria-keyshortcuts": "," }),
      button("Frame ›", () => this.stepFrame(1), { title: "One frame on ( . )", class: "large-frame", "aria-label": "One frame on", "aria-keyshortcuts": "." }),
      this.loop,
      make("label", { class: "field" }, make("span", {}, "Speed"), this.speed),
      this.time,
    );
    this.head = make("span", { class: "large-head" });
    this.wave = make("div", { class: "large-wave" });
    this.wave.addEventListener("click", (event) => {
      const box = this.wave.getBoundingClientRect();
      this.seekShare((event.clientX - box.left) / box.width);
    });
    this.evidence = make("div", { class: "large-evidence" });
    this.about = make("div", { class: "large-about" });
    this.heads = make("section", { class: "block", "aria-labelledby": "large-heads" });
    this.near = make("section", { class: "block", "aria-labelledby": "large-near" });
    this.dialog = make(
      "dialog",
      { class: "large", "aria-labelledby": "clip-title" },
      make(
        "header",
        { class: "large-bar" },
        make("div", { class: "large-words" }, this.title, this.place),
        iconButton("left", "Previous clip (←)", () => this.step(-1), { "aria-keyshortcuts": "ArrowLeft" }),
        iconButton("right", "Next clip (→)", () => this.step(1), { "aria-keyshortcuts": "ArrowRight" }),
        iconButton("close", "Back (Esc)", () => this.close(), { "aria-keyshortcuts": "Escape" }),
      ),
      make(
        "div",
        { class: "large-body" },
        make("div", { class: "large-main" }, this.stage, this.transport, this.wave, this.rateWords, this.evidence),
        make("div", { class: "large-side" }, this.about, this.heads, this.near),
      ),
    );
    this.dialog.addEventListener("cancel", (event) => {
      event.preventDefault();
      this.close();
    });
    addTo(document.body, this.dialog);
  },

  lament(text) {
    this.unload();
    this.title.textContent = "No such clip";
    for (const place of [this.place, this.evidence, this.about, this.heads, this.near]) place.replaceChildren();
    this.transport.hidden = true;
    this.wave.hidden = true;
    this.rateWords.hidden = true;
    fillWith(this.stage, fault(text));
  },

  async show(clip) {
    this.unload();
    this.clip = clip;
    this.rate = null;
    fillWith(this.title, userText(lastPart(clip.id)));
    const tiles = this.tiles();
    const at = tiles.indexOf(this.tile);
    this.place.textContent = at < 0 ? "" : `${grouped(at + 1)} of ${grouped(tiles.length)} here`;
    document.title = `${lastPart(clip.id)} · ${app.index.title}`;
    this.showStage();
    this.refresh();
    this.heads.replaceChildren();
    this.near.replaceChildren();
    this.showRate();
    this.dialog.querySelector(".large-body").scrollTop = 0;
    if (!this.dialog.contains(document.activeElement)) this.title.focus();
    try {
      const known = clip.row === undefined ? null : await loadRow(clip.row);
      if (this.clip !== clip) return;
      this.rate = known?.rate ?? null;
      this.showRate();
      this.showHeads(known?.heads ?? []);
      await this.showNear(known?.near ?? null);
    } catch (error) {
      if (this.clip === clip) fillWith(this.near, fault(error.message));
    }
  },

  isSoundAlone() {
    return this.clip.kind === "audio" || !app.index.tile.frames;
  },

  /** The player, or what stands for a clip that cannot be played. */
  showStage() {
    const { clip } = this;
    const { tile, words } = app.index;
    const plays = Boolean(clip.media) && clip.kind !== "picture" && !words;
    this.dialog.classList.toggle("sound-alone", plays && this.isSoundAlone());
    this.transport.hidden = !plays;
    this.wave.hidden = words || !(plays || (clip.thumb && tile.spectrogram > 0));
    this.stage.replaceChildren();
    if (words) {
      addTo(this.stage, make("div", { class: "large-texts" }, clip.picture ? picture(clip.picture, "whole", "") : null, ownTexts(clip).length ? ownLines(clip) : userText(clip.id)));
    } else if (clip.kind === "picture" && clip.media) {
      addTo(this.stage, make("img", { class: "large-still", src: clip.media, alt: `Picture ${lastPart(clip.id)}` }));
    } else {
      addTo(this.stage, make("span", { class: "frame" }, clip.thumb && tile.frames ? picture(clip.thumb, "picture", "") : make("span", { class: "blank" }, icon("no-picture"), plays ? null : "no picture")));
    }
    if (plays) this.attach();
    else if (!words && !clip.media) this.remark("It has no media file: it was missing when the gallery was written, or media were left out.");
    fillWith(this.wave, clip.thumb && tile.spectrogram ? picture(clip.thumb, "wave", "Spectrogram: time to the right, pitch upward") : null, plays ? this.head : null);
    this.wave.classList.toggle("seekable", plays);
    this.wave.title = plays ? "Click to go there" : "";
    this.change({});
    if (plays && !reducedMotion.matches) this.start();
  },

  remark(text) {
    this.stage.querySelector(".large-remark")?.remove();
    addTo(this.stage, make("p", { class: "large-remark" }, text));
  },

  attach() {
    const { clip } = this;
    const video = make("video", { class: "large-video", preload: "auto", playsInline: true, tabIndex: -1 });
    this.video = video;
    video.addEventListener("loadedmetadata", () => {
      if (video.currentTime < clip.start) video.currentTime = clip.start;
      this.advance();
    });
    video.addEventListener("loadeddata", () => video.classList.toggle("ready", video.videoWidth > 0));
    for (const name of ["timeupdate", "seeked", "play", "pause"]) video.addEventListener(name, () => this.advance());
    video.addEventListener("ended", () => this.atEnd());
    video.addEventListener("error", () => {
      if (this.video !== video) return;
      this.remark(clip.playable === false ? "This browser cannot play the file. Export again with --media transcode." : "This browser cannot open the file: has it been moved?");
      this.transport.hidden = true;
    });
    video.src = clip.media;
    video.currentTime = clip.start;
    addTo(this.stage.querySelector(".frame"), video);
  },

  unload() {
    cancelAnimationFrame(this.moving);
    const { video } = this;
    this.video = null;
    if (!video) return;
    video.pause();
    video.removeAttribute("src");
    video.load(); // frees the decoder
    video.remove();
  },

  /** Seconds that the clip lasts, 0 where nobody knows yet. */
  length() {
    const { clip, video } = this;
    return clip.duration ?? (video?.duration > 0 ? video.duration - clip.start : 0);
  },

  start() {
    const { video, clip } = this;
    if (!video) return;
    if (video.ended || video.currentTime >= clip.start + this.length() - 0.01) video.currentTime = clip.start;
    video.play().catch(() => {}); // a page that nobody has touched yet may not sound: the button is there
  },

  toggle() {
    if (!this.video) return;
    if (this.video.paused) this.start();
    else this.video.pause();
  },

  atEnd() {
    const { video, clip } = this;
    if (!video) return;
    if (this.settings.loop) {
      video.currentTime = clip.start;
      video.play().catch(() => {});
    } else {
      video.pause();
    }
  },

  seekShare(share) {
    if (this.video) this.seek(clamp(share, 0, 1) * this.length());
  },

  /** Go to a time of the clip, in seconds from its start. */
  seek(time) {
    const { video, clip } = this;
    if (!video) return;
    video.currentTime = clip.start + clamp(time, 0, Math.max(0, this.length() - 0.001));
    this.advance();
  },

  leap(seconds) {
    if (this.video) this.seek(this.video.currentTime - this.clip.start + seconds);
  },

  /** Stop, and go to the middle of the frame before or after the one that is seen. */
  stepFrame(direction) {
    const { video, clip } = this;
    if (!video || this.isSoundAlone()) return;
    video.pause();
    const rate = this.rate ?? GUESSED_RATE;
    const frame = Math.floor(video.currentTime * rate + 1e-3) + direction;
    this.seek((frame + 0.5) / rate - clip.start);
  },

  /** The play head, the time and the button, for as long as something plays. */
  advance() {
    cancelAnimationFrame(this.moving);
    const { video, clip } = this;
    if (!video || !clip) return;
    const length = this.length();
    const time = clamp(video.currentTime - clip.start, 0, length || Infinity);
    this.head.style.left = `${length ? 100 * (time / length) : 0}%`;
    this.time.textContent = `${decimals(time)} of ${decimals(length)} s`;
    this.play.textContent = video.paused ? "Play" : "Pause";
    if (!video.paused && length && video.currentTime >= clip.start + length) this.atEnd();
    if (!video.paused) this.moving = requestAnimationFrame(() => this.advance());
  },

  /** Loop and speed, which the browser keeps. */
  change(settings) {
    Object.assign(this.settings, settings);
    if (Object.keys(settings).length) storage.write("selavi.large", this.settings);
    this.loop.setAttribute("aria-pressed", String(this.settings.loop));
    this.speed.value = String(this.settings.speed);
    this.heard();
  },

  /** Volume, muting and speed as they are set. */
  heard() {
    if (!this.video) return;
    this.video.playbackRate = this.settings.speed;
    this.video.volume = player.settings.volume;
    this.video.muted = player.settings.muted;
  },

  showRate() {
    this.rateWords.hidden = this.transport.hidden || this.isSoundAlone();
    this.rateWords.textContent = this.rate
      ? `Frame steps follow the recording: ${Number(this.rate.toFixed(2))} frames a second.`
      : `Frame steps are 1/${GUESSED_RATE} s: how many frames a second the file has is not known.`;
  },

  /** What edits, the selection and the evidence switch change; the keys stay where they were. */
  refresh() {
    if (!this.clip || !this.isOpen()) return;
    const places = [this.about, this.evidence];
    const at = places.map((place) => [...place.querySelectorAll("button")].indexOf(document.activeElement));
    this.heard();
    this.showAbout();
    this.showEvidence();
    places.forEach((place, i) => at[i] >= 0 && place.querySelectorAll("button")[at[i]]?.focus());
  },

  showEvidence() {
    const { clip } = this;
    this.evidence.replaceChildren();
    if (!isExplained(clip)) return;
    const toggle = button("Where and when", () => evidence.toggle(), { class: "toggle", "aria-pressed": String(evidence.shown), title: "Show where in the picture and when in the sound (e)", "aria-keyshortcuts": "e" });
    toggle.prepend(icon("eye"));
    const strip = make("span", { class: "large-strip" }, make("img", { src: clip.thumb, alt: "Four frames and the spectrogram" }), clip.evidence ? make("img", { src: clip.evidence, alt: "Where and when it glows" }) : null, boxesOf(clip, "whole-overlay"));
    addTo(this.evidence, toggle, evidence.shown && clip.thumb ? strip : null);
  },

  showAbout() {
    const { clip } = this;
    const facts = [
      ["Label", clip.label ? userText(clip.label) : null],
      ["Confidence", clip.confidence === null ? null : decimals(clip.confidence)],
      ["Margin", clip.margin === null ? null : decimals(clip.margin)],
      [app.index.words ? "Modalities agree" : "Sound and picture agree", clip.agreement === null ? null : decimals(clip.agreement)],
      ["Begins at", clip.start > 0 ? `${decimals(clip.start)} s of its recording` : null],
      ...(app.index.words ? [] : app.index.columns.map((name, i) => [name, clip.texts?.[i] ? userText(clip.texts[i]) : null])),
    ].filter(([, value]) => value !== null && value !== undefined);
    const row = names.overlay().clip(clip.cluster, clip.id);
    const fate = row ? (row.rejected ? "Rejected by your hand." : isConfirmed(row) ? "Confirmed by your hand." : row.into === null ? null : `Moved to cluster ${spoken(row.into)} by your hand.`) : null;
    const chosen = selection.has(tileKey(clip));
    fillWith(this.about,
      make("p", { class: "large-path" }, make("span", { class: "unseen" }, "Path: "), userText(clip.path, "mono"), button("Copy path", () => this.copyPath(), { title: "The path within the folder of media (c)", "aria-keyshortcuts": "c" })),
      fate ? make("p", { class: "fate-note" }, userText(fate)) : null,
      make("dl", { class: "large-facts" }, facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value)))),
      this.tile && tileKey(this.tile.clip) === tileKey(clip)
        ? button(chosen ? "Selected" : "Select", () => this.select(), { class: "toggle", "aria-pressed": String(chosen), title: "Select it in the view below (x)", "aria-keyshortcuts": "x" })
        : null,
    );
  },

  select() {
    if (!this.tile || tileKey(this.tile.clip) !== tileKey(this.clip)) return;
    toggleSelected(this.tile);
  },

  async copyPath() {
    const { path } = this.clip;
    let copied = true;
    try {
      await navigator.clipboard.writeText(path);
    } catch {
      const range = document.createRange();
      range.selectNodeContents(this.about.querySelector(".large-path bdi"));
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      copied = document.execCommand("copy");
    }
    say(copied ? `Copied: ${path}` : "The browser does not let the page copy: the path is selected, press Ctrl C.");
  },

  /** The cluster and the confidence that every head gives; the run keeps no other probabilities. */
  showHeads(heads) {
    const line = ({ head, cluster, confidence }) => {
      const entry = head.clusters.find((each) => each.cluster === cluster);
      const name = names.overlay(head).nameOf(cluster);
      return make(
        "tr",
        { class: head === app.head ? "here" : null },
        make("th", { scope: "row" }, String(head.head), head === app.head ? make("span", { class: "quiet" }, " shown") : null),
        make("td", {}, make("a", { href: addressUnder(head.head, cluster, this.clip.id) }, String(cluster)), " ", userText(name || entry?.suggestion || "unnamed", name ? "given" : "suggested")),
        make("td", { class: "amount" }, decimals(confidence)),
      );
    };
    const column = (words, kind) => make("th", { scope: "col", class: kind }, words);
    fillWith(this.heads,
      make("h3", { id: "large-heads" }, heads.length > 1 ? "Under every head" : "Cluster"),
      heads.length
        ? make("table", {}, make("thead", {}, make("tr", {}, column("Head"), column("Cluster"), column("Confidence", "amount"))), make("tbody", {}, heads.map(line)))
        : null,
      make("p", { class: "quiet" }, heads.length ? "The cluster that each head gives, and its confidence; the run keeps none for other clusters." : "This page does not say what the heads give."),
    );
  },

  async showNear(rows) {
    const { clip } = this;
    const { numSearched, numClips } = app.index;
    const why = !numSearched
      ? ["Not known: the export had no features of the clips (", make("span", { class: "keep" }, "--map none"), ", or none could be computed)."]
      : `Not looked for: of so many clips the export compares only ${grouped(numSearched)} with all ${grouped(numClips)} clips, those in the rows of head ${app.index.chosenHead}’s clusters.`;
    const list = make("ul", { class: "large-nearest", role: "list" });
    fillWith(this.near,
      make("h3", { id: "large-near" }, "Nearest clips"),
      make("p", { class: "quiet" }, rows ? "By the run’s features, over all clusters, the most alike first." : why),
      list,
    );
    if (!rows) return;
    const clips = await Promise.all(rows.map(loadClipOfRow));
    if (this.clip === clip) fillWith(list, ...clips.map((near) => make("li", {}, this.nearLink(near))));
  },

  nearLink(near) {
    const { tile, words } = app.index;
    const link = make(
      "a",
      { href: routeToLarge(near) },
      words ? null : make("span", { class: "cell" }, near.thumb ? picture(near.thumb, tile.frames ? "picture" : "wave", "") : icon("no-picture")),
      make("span", { class: "near-words" }, userText((words && ownTexts(near)[0]) || lastPart(near.id), words ? "" : "mono")),
      make("span", { class: near.cluster === this.clip.cluster ? "quiet" : "elsewhere" }, userText(`cluster ${spoken(near.cluster)}`)),
    );
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return; // a tab of its own
      event.preventDefault();
      this.openNear(near);
    });
    return link;
  },

  /** Keys while it is open; true where the key was one of them. */
  key(event) {
    if (event.ctrlKey || event.metaKey || isTyping(event.target)) return false;
    const onControl = event.target.matches("button, a");
    const act = {
      " ": onControl ? null : () => this.toggle(),
      ArrowLeft: () => (event.shiftKey ? this.leap(-LEAP_S) : this.step(-1)),
      ArrowRight: () => (event.shiftKey ? this.leap(LEAP_S) : this.step(1)),
      ",": () => this.stepFrame(-1),
      ".": () => this.stepFrame(1),
      l: () => this.change({ loop: !this.settings.loop }),
      c: () => this.clip && this.copyPath(),
      x: () => this.clip && this.select(),
      e: () => this.clip && isExplained(this.clip) && evidence.toggle(),
      m: () => player.toggleMute(),
      u: () => names.undo(),
      U: () => names.redo(),
    }[event.key];
    if (!act) return false;
    event.preventDefault();
    act();
    return true;
  },
};
