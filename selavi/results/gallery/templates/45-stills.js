// Pictures of clips that have no thumbnail, drawn from their media one after another as their tiles come into view.

const STILL_SECONDS = 5; // that a browser may take for one

const stills = {
  waiting: [], // tiles in view, the one that came last first
  busy: false,

  /** Draw a tile's clip as soon as it is seen. */
  want(tile) {
    this.inView ??= new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        const seen = shownTiles.find((each) => each.element === target);
        this.waiting = this.waiting.filter((each) => each !== seen);
        if (seen && isIntersecting) this.waiting.unshift(seen);
      }
      this.next();
    });
    this.inView.observe(tile.element);
  },

  async next() {
    if (this.busy) return;
    const tile = this.waiting.shift();
    if (!tile) return;
    this.busy = true;
    this.inView.unobserve(tile.element);
    const canvas = await this.draw(tile.clip);
    if (canvas && tile.element.isConnected) {
      tile.frame.querySelector(".blank")?.remove();
      tile.frame.prepend(canvas);
    }
    this.busy = false;
    this.next();
  },

  /** The frame in the middle of a clip on a canvas; null where the browser gives none. */
  async draw(clip) {
    const video = make("video", { preload: "auto", muted: true, playsInline: true });
    const happens = (name) => new Promise((resolve) => video.addEventListener(name, () => resolve(true), { once: true }));
    const late = new Promise((resolve) => setTimeout(resolve, 1000 * STILL_SECONDS, false));
    const none = happens("error").then(() => false);
    video.src = clip.media;
    let canvas = null;
    if (await Promise.race([happens("loadeddata"), none, late])) {
      const there = happens("seeked");
      video.currentTime = clip.start + 0.5 * (clip.duration ?? 0);
      if ((await Promise.race([there, none, late])) && video.videoWidth) {
        canvas = make("canvas", { class: "still", width: 320, height: Math.round((320 * app.index.tile.height) / app.index.tile.width), "aria-hidden": "true" });
        const scale = Math.min(canvas.width / video.videoWidth, canvas.height / video.videoHeight);
        const [wide, tall] = [video.videoWidth * scale, video.videoHeight * scale];
        canvas.getContext("2d").drawImage(video, (canvas.width - wide) / 2, (canvas.height - tall) / 2, wide, tall);
      }
    }
    video.removeAttribute("src");
    video.load(); // frees the decoder
    return canvas;
  },
};
