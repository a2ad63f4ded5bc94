// The map: every clip a point on a canvas.  Drag to move, wheel to zoom, draw round points to select them.

const LIST_CLUSTERS = 60;
const LIST_CLIPS = 48;
const HEADING = 56; // pixels that the heading takes from the canvas

const mapView = {
  data: null,
  view: { x: 0.5, y: 0.5, zoom: 1 },
  lassoing: false,
  lasso: [],
  inside: null, // indices of the points selected, or null
  focus: null, // cluster under the pointer, or pointed at in the list
  pointers: new Map(),

  show() {
    this.canvas = make("canvas", {
      class: "map-canvas", tabIndex: 0, role: "application",
      "aria-label": "Map of the clips.  Arrow keys move, plus and minus zoom.  The clusters in view are listed beside it.",
    });
    this.tip = make("div", { class: "map-tip", hidden: true });
    this.list = make("div", { class: "map-list" });
    this.words = make("p", { class: "quiet" });
    this.legend = make("div", { class: "map-legend" });
    this.crowd = make("p", { class: "quiet crowd" });
    this.densityButton = button("Density", () => this.setDensity(!this.isDense), {
      class: "toggle", "aria-pressed": "false", title: "Hexagons, the stronger the more clips lie there; by themselves where many clips lie on each other",
    });
    this.lassoButton = button("Select", () => this.setLasso(!this.lassoing), {
      class: "toggle", "aria-pressed": "false", title: "Draw round clips to select them; or hold Shift and drag",
    }, icon("lasso"), "Select");
    const element = make(
      "div",
      { class: "map-view" },
      make(
        "div",
        { class: "map-stage" },
        make("header", { class: "map-head" }, make("h1", { id: "title", tabIndex: -1 }, "Map"), this.words),
        make(
          "div",
          { class: "map-tools" },
          this.densityButton,
          this.lassoButton,
          iconButton("plus", "Zoom in", () => this.zoom(1.5)),
          iconButton("minus", "Zoom out", () => this.zoom(1 / 1.5)),
          iconButton("whole", "Whole map", () => this.reset()),
        ),
        this.canvas,
        this.tip,
      ),
      make("section", { class: "map-side", "aria-label": "Clips and clusters of the map" }, this.colourField(), this.legend, this.crowd, this.list),
    );
    this.listen();
    new ResizeObserver(() => this.draw()).observe(this.canvas);
    rove(this.list, "button.tile");
    load("data/map.js", "map").then((map) => this.read(map), (error) => fillWith(this.list, fault(error.message)));
    return element;
  },

  read(map) {
    if (!this.data) {
      const cluster = Object.fromEntries(Object.entries(map.cluster).map(([head, text]) => [head, decodeArray(text, Int32Array)]));
      this.data = { ...map, x: decodeArray(map.x, Uint16Array), y: decodeArray(map.y, Uint16Array), cluster };
    }
    const { explained, method, shown, of } = this.data;
    const kept = (explained ?? []).reduce((sum, share) => sum + share, 0);
    this.words.textContent =
      `${shown < of ? `${grouped(shown)} of ${plural(of, "clip")}` : plural(of, "clip")}, ${method}` +
      (kept ? `: the plane keeps ${percent(kept)} of the variance` : "");
    this.group();
    this.inside = null;
    this.listClusters();
    this.recolour();
  },

  colourField() {
    const choices = colouring.choices();
    const kept = storage.read("selavi.colours");
    colouring.by = choices.some(([value]) => value === kept) ? kept : "cluster";
    const choice = make("select", { autocomplete: "off", id: "colours" }, choices.map(([value, words]) => make("option", { value, selected: value === colouring.by }, words)));
    choice.addEventListener("change", () => {
      colouring.by = choice.value;
      storage.write("selavi.colours", choice.value);
      this.recolour();
    });
    return make("label", { class: "field" }, make("span", {}, "Colour by"), choice);
  },

  /** Read what the colours say, and show it. */
  async recolour() {
    if (!this.data) return;
    colouring.only = null;
    const { by } = colouring;
    try {
      await colouring.read(this.data);
      if (by !== colouring.by || route.view !== "map") return;
      this.showLegend();
      this.draw();
    } catch (error) {
      fillWith(this.legend, fault(error.message));
    }
  },

  showLegend() {
    const focused = [...this.legend.querySelectorAll("button")].indexOf(document.activeElement);
    fillWith(this.legend, colouring.legend(() => {
      this.showLegend();
      this.redraw();
    }));
    this.legend.querySelectorAll("button")[focused]?.focus();
  },

  /** Points that are drawn in one colour: [[colour, points, code], ...]. */
  colourGroups(dark) {
    const { painted } = colouring;
    if (!painted) return [...this.points].map(([cluster, points]) => [clusterColour(cluster, dark), points]);
    const groups = new Map();
    painted.codes.forEach((code, i) => {
      if (!groups.has(code)) groups.set(code, []);
      groups.get(code).push(i);
    });
    return [...groups].map(([code, points]) => [colouring.colour(code, dark), points, code]);
  },

  /** In the colours of the scheme shown now. */
  redress() {
    this.showLegend();
    this.draw();
  },

  setDensity(on) {
    density.wanted = on;
    this.draw();
  },

  /** Whether a point is shown in full: not outside of the selection, the cluster or the colour that is pointed at. */
  isLit(i, chosen) {
    if (chosen) return chosen.has(i);
    if (this.focus !== null) return this.focus === this.clusters[i];
    return colouring.only === null || colouring.painted?.codes[i] === colouring.only;
  },

  /** Points of each cluster, and the cluster's middle. */
  group() {
    const { x, y } = this.data;
    const clusters = this.data.cluster[headName(app.head)];
    this.clusters = clusters;
    this.points = new Map();
    clusters.forEach((cluster, i) => {
      if (!this.points.has(cluster)) this.points.set(cluster, []);
      this.points.get(cluster).push(i);
    });
    const median = (values) => values.sort((a, b) => a - b)[values.length >> 1] / 65535;
    this.middles = new Map([...this.points].map(([cluster, points]) => [cluster, [median(points.map((i) => x[i])), median(points.map((i) => y[i]))]]));
  },

  place() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const side = Math.min(width, height - HEADING) * 0.94 * this.view.zoom;
    return { width, height, side, left: width / 2 - this.view.x * side, top: (height + HEADING) / 2 - (1 - this.view.y) * side };
  },
  toScreen(i, place) {
    return [place.left + (this.data.x[i] / 65535) * place.side, place.top + (1 - this.data.y[i] / 65535) * place.side];
  },

  draw() {
    const { canvas, data } = this;
    if (!data || !canvas.clientWidth) return;
    const scale = devicePixelRatio || 1;
    const place = this.place();
    canvas.width = place.width * scale;
    canvas.height = place.height * scale;
    const draw = canvas.getContext("2d");
    draw.scale(scale, scale);
    const groups = this.colourGroups(isDark());
    const found = density.bins(groups, place, (i, at) => this.toScreen(i, at));
    const isCrowded = density.isCrowded(found);
    this.isDense = density.wanted ?? isCrowded;
    this.densityButton.setAttribute("aria-pressed", String(this.isDense));
    const dot = clamp(1.6 + Math.sqrt(20000 / data.x.length) * 0.8, 1.6, 4.5) * Math.sqrt(this.view.zoom) ** 0.7;
    const chosen = this.inside ? new Set(this.inside) : null;
    const isAll = !chosen && this.focus === null && colouring.only === null;
    if (this.isDense) density.draw(draw, groups, found, isAll ? 1 : 0.3, isDark());
    const words = this.isDense ? `The fullest hexagon holds ${plural(density.most, "clip")}; its colour is ${colouring.painted?.numbers ? "the mean" : "that of most"} of its clips.` : "";
    if (this.crowd.textContent !== words) this.crowd.textContent = words;
    for (const [colour, points] of this.isDense && isAll ? [] : groups) {
      draw.fillStyle = colour;
      for (const i of points) {
        const isLit = this.isLit(i, chosen);
        if (this.isDense && !isLit) continue;
        const [x, y] = this.toScreen(i, place);
        if (x < -9 || y < -9 || x > place.width + 9 || y > place.height + 9) continue;
        draw.globalAlpha = !isLit ? 0.1 : chosen ? 1 : isCrowded ? 0.5 : 0.8;
        draw.beginPath();
        draw.arc(x, y, dot, 0, 7);
        draw.fill();
      }
    }
    draw.globalAlpha = 1;
    this.drawNames(draw, place);
    if (this.lasso.length > 1) {
      draw.beginPath();
      this.lasso.forEach(([x, y]) => draw.lineTo(x, y));
      draw.closePath();
      draw.strokeStyle = colourOf("--ink");
      draw.setLineDash([5, 4]);
      draw.lineWidth = 1.5;
      draw.stroke();
    }
  },

  /** Names of the largest clusters, as many as have room, each once. */
  drawNames(draw, place) {
    const overlay = names.overlay();
    const taken = [];
    const written = new Set();
    Object.assign(this, { taken, written });
    draw.font = `600 12px ${getComputedStyle(document.body).fontFamily}`;
    draw.textAlign = "center";
    draw.textBaseline = "middle";
    draw.lineJoin = "round";
    const order = [...this.points].sort((a, b) => (b[0] === this.focus) - (a[0] === this.focus) || b[1].length - a[1].length);
    for (const [cluster] of order) {
      const [mx, my] = this.middles.get(cluster);
      const [x, y] = [place.left + mx * place.side, place.top + (1 - my) * place.side];
      if (x < 0 || y < 0 || x > place.width || y > place.height) continue;
      const full = overlay.nameOf(cluster) || app.clusters.get(cluster)?.suggestion || String(cluster);
      const text = full.length > 24 ? `${full.slice(0, 23)}…` : full;
      const half = draw.measureText(text).width / 2 + 4;
      if (cluster !== this.focus && taken.some(([l, r, t, b]) => x - half < r && x + half > l && y - 9 < b && y + 9 > t)) continue;
      if (written.has(full.toLowerCase())) continue;
      written.add(full.toLowerCase());
      taken.push([x - half, x + half, y - 9, y + 9]);
      draw.lineWidth = 4;
      draw.strokeStyle = colourOf("--paper");
      draw.strokeText(text, x, y);
      draw.fillStyle = colourOf("--ink");
      draw.fillText(text, x, y);
    }
  },

  redraw() {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.draw());
  },

  zoom(factor, at = null) {
    const before = this.place();
    const [x, y] = at ?? [before.width / 2, (before.height + HEADING) / 2];
    const [u, v] = [(x - before.left) / before.side, (y - before.top) / before.side];
    this.view.zoom = clamp(this.view.zoom * factor, 0.5, 60);
    const after = this.place();
    this.pan(x - after.left - u * after.side, y - after.top - v * after.side);
  },
  pan(dx, dy) {
    const { side } = this.place();
    this.view.x = clamp(this.view.x - dx / side, -0.2, 1.2);
    this.view.y = clamp(this.view.y + dy / side, -0.2, 1.2);
    this.redraw();
    this.listSoon();
  },
  reset() {
    this.view = { x: 0.5, y: 0.5, zoom: 1 };
    this.redraw();
    this.listSoon();
  },
  listSoon: debounce(150, () => mapView.inside || mapView.listClusters()),

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  },

  nearestPoint([px, py], reach = 12) {
    if (!this.data) return null;
    const place = this.place();
    let best = null;
    let least = reach * reach;
    for (let i = 0; i < this.data.x.length; i += 1) {
      const [x, y] = this.toScreen(i, place);
      const distance = (x - px) ** 2 + (y - py) ** 2;
      if (distance < least) [best, least] = [i, distance];
    }
    return best;
  },

  listen() {
    const { canvas, pointers } = this;
    pointers.clear();
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY * 0.0016), this.at(event));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, this.at(event));
      this.moved = 0;
      this.lasso = this.lassoing || event.shiftKey ? [this.at(event)] : [];
      this.hover(null);
    });
    canvas.addEventListener("pointermove", (event) => this.move(event));
    const end = (event) => {
      if (!pointers.delete(event.pointerId) || event.type !== "pointerup") return;
      if (this.lasso.length > 2) this.close();
      else if (this.moved < 5) this.open(event);
      this.lasso = [];
      this.redraw();
    };
    canvas.addEventListener("pointerup", end);
    canvas.addEventListener("pointercancel", end);
    canvas.addEventListener("pointerleave", () => this.hover(null));
    canvas.addEventListener("keydown", (event) => {
      const act = {
        ArrowLeft: () => this.pan(60, 0), ArrowRight: () => this.pan(-60, 0), ArrowUp: () => this.pan(0, 60), ArrowDown: () => this.pan(0, -60),
        "+": () => this.zoom(1.5), "=": () => this.zoom(1.5), "-": () => this.zoom(1 / 1.5), 0: () => this.reset(),
      }[event.key];
      if (!act || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      act();
    });
  },

  move(event) {
    const { pointers } = this;
    const here = this.at(event);
    const before = pointers.get(event.pointerId);
    if (!before) {
      this.hover(this.nearestPoint(here), here);
      return;
    }
    pointers.set(event.pointerId, here);
    this.moved += Math.hypot(here[0] - before[0], here[1] - before[1]);
    if (pointers.size === 2) {
      const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
      const spread = (place) => Math.hypot(place[0] - other[0], place[1] - other[1]);
      this.lasso = [];
      this.zoom(spread(here) / Math.max(1, spread(before)), [(here[0] + other[0]) / 2, (here[1] + other[1]) / 2]);
    } else if (this.lasso.length) {
      this.lasso.push(here);
      this.redraw();
    } else {
      this.pan(here[0] - before[0], here[1] - before[1]);
    }
  },

  hover(i, here) {
    if (i === this.hovered) return;
    this.hovered = i;
    this.tip.hidden = i === null || i === undefined;
    const focus = i === null || i === undefined ? null : this.clusters[i];
    if (focus !== this.focus) {
      this.focus = focus;
      this.redraw();
    }
    if (this.tip.hidden) return;
    const { thumb, ids, texts, picture: own } = this.data;
    fillWith(this.tip,
      thumb[i] || own?.[i] ? make("img", { src: thumb[i] || own[i], alt: "" }) : "",
      make("span", { class: "mono" }, userText(lastPart(ids[i]))),
      ownTexts({ texts: texts?.[i] }).slice(0, 1).map((text) => userText(text)),
      make("span", {}, `cluster ${spoken(focus)}`),
      colouring.painted ? make("span", {}, `${colouring.words()}: `, userText(colouring.painted.said(i), "strong")) : null,
    );
    const place = this.place();
    this.tip.style.left = `${clamp(here[0] + 16, 8, Math.max(8, place.width - 268))}px`;
    this.tip.style.top = `${clamp(here[1] + 16, 8, Math.max(8, place.height - 130))}px`;
  },

  open(event) {
    const i = this.nearestPoint(this.at(event), event.pointerType === "mouse" ? 12 : 22);
    if (i !== null) go(routeToClip(this.clusters[i], this.data.ids[i]));
  },

  setLasso(on) {
    this.lassoing = on;
    this.lassoButton.setAttribute("aria-pressed", String(on));
    this.canvas.classList.toggle("lassoing", on);
  },

  /** Select the points inside the line drawn. */
  close() {
    const place = this.place();
    const line = this.lasso;
    const within = ([x, y]) => {
      let inside = false;
      for (let i = 0, j = line.length - 1; i < line.length; j = i, i += 1) {
        const [[xi, yi], [xj, yj]] = [line[i], line[j]];
        if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) inside = !inside;
      }
      return inside;
    };
    const found = [];
    for (let i = 0; i < this.data.x.length; i += 1) if (within(this.toScreen(i, place))) found.push(i);
    this.setLasso(false);
    this.select(found.length ? found : null);
  },

  select(points) {
    this.inside = points;
    selection.clear();
    for (const i of points ?? []) {
      const clip = { cluster: this.clusters[i], id: this.data.ids[i] };
      selection.set(tileKey(clip), clip);
    }
    this.redraw();
    if (points) this.listSelected(points);
    else this.listClusters();
    dock.refresh();
  },

  countByCluster(points) {
    const counts = new Map();
    for (const i of points) counts.set(this.clusters[i], (counts.get(this.clusters[i]) ?? 0) + 1);
    return [...counts].sort((a, b) => b[1] - a[1]);
  },

  clusterList(counts) {
    const overlay = names.overlay();
    return make(
      "ul",
      { class: "map-clusters", role: "list" },
      counts.slice(0, LIST_CLUSTERS).map(([cluster, count]) => {
        const name = overlay.nameOf(cluster);
        const dot = make("span", { class: "dot", "aria-hidden": "true" });
        dot.style.background = clusterColour(cluster, isDark());
        const link = make(
          "a",
          { href: routeToCluster(cluster) },
          dot, make("span", { class: "number" }, String(cluster)), userText(name || app.clusters.get(cluster)?.suggestion || "", name ? "given" : "suggested"), make("span", { class: "amount" }, grouped(count)),
        );
        const point = (focus) => () => {
          this.focus = focus;
          this.redraw();
        };
        for (const type of ["pointerenter", "focus"]) link.addEventListener(type, point(cluster));
        for (const type of ["pointerleave", "blur"]) link.addEventListener(type, point(null));
        return make("li", {}, link);
      }),
    );
  },

  listClusters() {
    if (!this.data) return;
    forgetTiles();
    const place = this.place();
    const seen = [];
    for (let i = 0; i < this.data.x.length; i += 1) {
      const [x, y] = this.toScreen(i, place);
      if (x >= 0 && y >= 0 && x <= place.width && y <= place.height) seen.push(i);
    }
    const counts = this.countByCluster(seen);
    fillWith(this.list,
      make("h2", { role: "status" }, `${plural(counts.length, "cluster")} in view`),
      make("p", { class: "quiet" }, "Point at one to find it in the map."),
      this.clusterList(counts),
      counts.length > LIST_CLUSTERS ? make("p", { class: "quiet" }, `and ${grouped(counts.length - LIST_CLUSTERS)} more: zoom in`) : "",
      seen.length ? button("Select the clips in view", () => this.select(seen), { class: "quiet-button" }) : "",
    );
  },

  listSelected(points) {
    forgetTiles();
    const counts = this.countByCluster(points);
    const { ids, thumb, texts, picture: own } = this.data;
    const step = Math.max(1, Math.floor(points.length / LIST_CLIPS));
    const some = points.filter((_, i) => i % step === 0).slice(0, LIST_CLIPS);
    const tiles = some.map((i) => new Tile({ cluster: this.clusters[i], id: ids[i], thumb: thumb[i], number: null, start: 0, texts: texts?.[i], picture: own?.[i] }));
    fillWith(this.list,
      make("h2", { role: "status" }, `${plural(points.length, "clip")} of ${plural(counts.length, "cluster")}`),
      button("Show everything again", () => this.select(null), { class: "link" }),
      this.clusterList(counts),
      make("h2", {}, some.length < points.length ? `${some.length} of the clips` : "The clips"),
      tileGrid(tiles, "Clips selected"),
    );
  },

  refresh() {
    this.showLegend();
    this.draw();
    refreshTiles();
  },
};

const isDark = () => getComputedStyle(document.documentElement).colorScheme === "dark" || (getComputedStyle(document.documentElement).colorScheme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);

/** Neighbouring numbers get distant hues; the lightness keeps its distance from the paper. */
const clusterColour = (cluster, dark) => {
  const light = dark ? [70, 58, 64][cluster % 3] : [46, 36, 54][cluster % 3];
  return `hsl(${(cluster * 137.508) % 360} ${dark ? 62 : 58}% ${light}%)`;
};
