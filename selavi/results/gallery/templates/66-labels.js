// Label x cluster: where the clips of each label went.  A canvas for the eye, a table for reading.

const labelsView = {
  show() {
    this.head = app.head;
    this.canvas = make("canvas", { class: "heat", role: "img" });
    this.tip = make("p", { class: "tip", hidden: true, "aria-hidden": "true" });
    this.body = make("tbody");
    this.filter = make("input", { type: "search", placeholder: "Find a label", "aria-label": "Find a label", autocomplete: "off" });
    this.filter.addEventListener("input", () => this.list());
    this.words = make("p", { class: "quiet", role: "status" });
    const element = make(
      "div",
      { class: "labels-view" },
      make("header", {}, make("h1", { id: "title", tabIndex: -1 }, "Labels and clusters"), make("p", { class: "lede" }, "Each row is a label, each column a cluster; the darker the cell, the larger the share of the label's clips that it holds.  A clean diagonal means that clusters and labels agree.")),
      make("div", { class: "heat-place" }, this.canvas, this.tip),
      make(
        "section",
        { class: "label-table", "aria-labelledby": "label-table-title" },
        make("div", { class: "row-head" }, make("h2", { id: "label-table-title" }, "Label by label"), this.words, make("label", { class: "field" }, icon("search"), this.filter)),
        make(
          "table",
          {},
          make("thead", {}, make("tr", {}, ["Label", "Clips", "Clusters that hold it"].map((text) => make("th", { scope: "col" }, text)))),
          this.body,
        ),
      ),
    );
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.canvas.addEventListener("pointerleave", () => this.point(null));
    this.canvas.addEventListener("click", (event) => {
      const cell = this.cellAt(event);
      if (cell) go(routeToCluster(this.columns[cell.column]));
    });
    new ResizeObserver(() => this.draw()).observe(element);
    const head = headName(app.head);
    load(`data/labels-${head}.js`, `labels/${head}`).then(
      (data) => this.read(data),
      (error) => addTo(element, fault(error.message)),
    );
    return element;
  },

  /** Rows stay as they are, by frequency; clusters stand in the order of the label that they hold most of. */
  read({ labels, clusters, counts }) {
    this.labels = labels.map((name) => ({ name, total: 0, cells: [] }));
    const sums = clusters.map(() => [-1, 0]);
    for (const [row, column, count] of counts) {
      this.labels[row].total += count;
      this.labels[row].cells.push([column, count]);
      if (count > sums[column][1]) sums[column] = [row, count];
    }
    const order = clusters.map((_, column) => column).sort((a, b) => sums[a][0] - sums[b][0] || sums[b][1] - sums[a][1]);
    const placeOf = new Map(order.map((column, place) => [column, place]));
    this.columns = order.map((column) => clusters[column]);
    this.shares = new Map();
    for (const [row, label] of this.labels.entries()) {
      label.cells = label.cells.map(([column, count]) => [placeOf.get(column), count]).sort((a, b) => b[1] - a[1]);
      for (const [column, count] of label.cells) this.shares.set(row * this.columns.length + column, count);
    }
    this.canvas.setAttribute("aria-label", `Heat map of ${plural(labels.length, "label")} and ${plural(clusters.length, "cluster")}; the table below it says the same in words.`);
    this.draw();
    this.list();
  },

  layout() {
    const rows = this.labels.length;
    const columns = this.columns.length;
    const room = this.canvas.parentNode.clientWidth;
    const left = rows <= 60 ? Math.min(170, room * 0.3) : 0;
    const width = clamp((room - left) / columns, 1, 44);
    const height = clamp(Math.max(width * 0.62, 560 / rows), rows <= 60 ? 15 : 2, 26);
    return { left, width, height, rows, columns, names: rows <= 60, top: width > 17 ? 22 : 4 };
  },

  draw() {
    if (!this.labels) return;
    const at = this.layout();
    const { canvas } = this;
    const scale = devicePixelRatio || 1;
    const [wide, tall] = [at.left + at.width * at.columns, at.top + at.height * at.rows];
    canvas.style.width = `${wide}px`;
    canvas.style.height = `${tall}px`;
    canvas.width = wide * scale;
    canvas.height = tall * scale;
    const draw = canvas.getContext("2d");
    draw.scale(scale, scale);
    draw.fillStyle = colourOf("--hollow");
    draw.fillRect(at.left, at.top, wide - at.left, tall - at.top);
    draw.font = `12px ${getComputedStyle(document.body).fontFamily}`;
    draw.textBaseline = "middle";
    const [ink, accent] = [colourOf("--ink"), colourOf("--accent")];
    const gap = Math.min(at.width, at.height) > 9 ? 1 : 0;
    this.labels.forEach(({ name, total, cells }, row) => {
      const y = at.top + row * at.height;
      if (at.names) {
        draw.fillStyle = ink;
        draw.globalAlpha = 1;
        draw.fillText(shortened(draw, name, at.left - 12), 0, y + at.height / 2);
      }
      draw.fillStyle = accent;
      for (const [column, count] of cells) {
        draw.globalAlpha = 0.12 + 0.88 * Math.sqrt(count / total);
        draw.fillRect(at.left + column * at.width, y, Math.max(1, at.width - gap), Math.max(1, at.height - gap));
      }
    });
    draw.globalAlpha = 1;
    if (at.top > 10) {
      draw.fillStyle = ink;
      draw.textAlign = "center";
      this.columns.forEach((cluster, column) => draw.fillText(String(cluster), at.left + (column + 0.5) * at.width, 10));
    }
  },

  cellAt(event) {
    if (!this.labels) return null;
    const at = this.layout();
    const box = this.canvas.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left - at.left) / at.width);
    const row = Math.floor((event.clientY - box.top - at.top) / at.height);
    return row >= 0 && row < at.rows && column >= 0 && column < at.columns ? { row, column } : null;
  },

  point(event) {
    const cell = event && this.cellAt(event);
    this.tip.hidden = !cell;
    if (!cell) return;
    const { name, total } = this.labels[cell.row];
    const count = this.shares.get(cell.row * this.columns.length + cell.column) ?? 0;
    fillWith(this.tip, userText(name, "strong"), ` × cluster ${spoken(this.columns[cell.column])}: ${grouped(count)} of ${grouped(total)}`);
    const box = this.canvas.parentNode.getBoundingClientRect();
    const x = event.clientX - box.left;
    this.tip.style.transform = `translate(${clamp(x, 90, box.width - 90)}px, ${event.clientY - box.top + 18}px) translateX(-50%)`;
  },

  list() {
    const query = this.filter.value.trim().toLowerCase();
    const found = this.labels.filter(({ name }) => name.toLowerCase().includes(query));
    this.words.textContent = plural(found.length, "label");
    fillWith(this.body,
      ...found.slice(0, 500).map(({ name, total, cells }) =>
        make(
          "tr",
          {},
          make("th", { scope: "row" }, userText(name)),
          make("td", { class: "amount" }, grouped(total)),
          make(
            "td",
            {},
            make("span", { class: "holders" },
            cells.slice(0, 6).map((cell) => this.holder(cell, total)),
            cells.length > 6 ? make("details", {}, make("summary", {}, `and ${cells.length - 6} more`), cells.slice(6).map((cell) => this.holder(cell, total))) : null),
          ),
        ),
      ),
    );
  },

  /** A cluster that holds clips of a label, and which share of them. */
  holder([column, count], total) {
    const cluster = this.columns[column];
    return make("a", { class: "holder", href: routeToCluster(cluster) }, make("b", {}, percent(count / total)), userText(` in ${spoken(cluster)}`));
  },

  refresh() {
    if (this.labels) this.list();
  },
};

const shortened = (draw, text, width) => {
  if (draw.measureText(text).width <= width) return text;
  let end = text.length;
  while (end > 1 && draw.measureText(`${text.slice(0, end)}…`).width > width) end -= 1;
  return `${text.slice(0, end)}…`;
};
