// Two heads side by side: for each cluster of one, the clusters of the other that hold most of its clips.

const ROWS_AT_ONCE = 200;
const CROSS_ORDERS = {
  number: ["number", (a, b) => a.cluster - b.cluster],
  size: ["size", (a, b) => b.size - a.size || a.cluster - b.cluster],
  least: ["least in one cluster", (a, b) => a.share - b.share || a.cluster - b.cluster],
  most: ["most in one cluster", (a, b) => b.share - a.share || a.cluster - b.cluster],
};

const headsView = {
  order: "least",
  rows: null,

  show(one, other) {
    this.heads = [one, other].map((number) => app.index.heads.find((head) => head.head === number));
    this.rows = null;
    this.words = make("p", { class: "lede", role: "status" });
    this.body = make("tbody");
    this.more = make("div", { class: "more-rows" });
    const element = make(
      "div",
      { class: "heads-view" },
      make("header", {}, make("h1", { id: "title", tabIndex: -1 }, `Heads ${one} and ${other}`), this.words),
      this.tools(),
      make(
        "div",
        { class: "table-place", tabIndex: 0, role: "region", "aria-label": `Clusters of head ${one} and head ${other}` },
        make(
          "table",
          {},
          make("thead", {}, make("tr", {}, [`Cluster of head ${one}`, "Clips", `Where its clips are in head ${other}`].map((text) => make("th", { scope: "col" }, text)))),
          this.body,
        ),
      ),
      this.more,
    );
    const name = `h${one}-h${other}`;
    load(`data/cross-${name}.js`, `cross/${name}`).then(
      (data) => element.isConnected && this.read(data),
      (error) => addTo(element, fault(error.message)),
    );
    return element;
  },

  tools() {
    const numbers = app.index.heads.map((head) => head.head);
    const [one, other] = this.heads.map((head) => head.head);
    const choice = (words, chosen, change, options) => {
      const select = make("select", { autocomplete: "off" }, options.map(([value, text]) => make("option", { value: String(value), selected: value === chosen }, text)));
      select.addEventListener("change", () => change(select.value));
      return make("label", { class: "field" }, make("span", {}, words), select);
    };
    const to = (first, second) => go(`#/heads/${first}/${second}`);
    const others = numbers.filter((number) => number !== one);
    return make(
      "div",
      { class: "heads-tools" },
      choice("Head", one, (value) => to(value, Number(value) === other ? one : other), numbers.map((number) => [number, String(number)])),
      choice("beside head", other, (value) => to(one, value), others.map((number) => [number, `${number}, NMI ${decimals(this.heads[0].nmi[number])}`])),
      button("Swap", () => to(other, one), { title: "The other head's clusters as rows" }),
      choice("Sort by", this.order, (value) => ((this.order = value), this.list()), Object.entries(CROSS_ORDERS).map(([value, [text]]) => [value, text])),
    );
  },

  read({ nmi, clusters, largest }) {
    this.entries = this.heads.map((head) => new Map(head.clusters.map((cluster) => [cluster.cluster, cluster])));
    const [first, second] = this.entries;
    this.rows = clusters.map((cluster, i) => {
      const { size } = first.get(cluster);
      return { cluster, size, share: largest[i][0][1] / size, largest: largest[i] };
    });
    const isTwin = ({ size, largest: [[other, count]] }) => count > size / 2 && count > second.get(other).size / 2;
    const [one, other] = this.heads.map((head) => head.head);
    const twins = this.rows.filter(isTwin).length;
    this.words.textContent =
      `NMI ${nmi.toFixed(3)}, where 1 means the same clusters and 0 that neither tells of the other. ` +
      `${grouped(twins)} of ${plural(clusters.length, "cluster")} of head ${one} have a counterpart in head ${other}: more than half of the clips of each are in the other.`;
    this.list();
  },

  list() {
    if (!this.rows) return;
    this.left = [...this.rows].sort(CROSS_ORDERS[this.order][1]);
    this.body.replaceChildren();
    this.addRows();
  },

  addRows() {
    const next = this.left.splice(0, ROWS_AT_ONCE);
    const rows = next.map((row) => this.row(row));
    addTo(this.body, rows);
    if (this.more.contains(document.activeElement)) rows[0]?.querySelector("a").focus();
    fillWith(this.more, this.left.length ? button(`Show ${grouped(Math.min(ROWS_AT_ONCE, this.left.length))} more of ${grouped(this.left.length)}`, () => this.addRows()) : null);
  },

  row({ cluster, size, largest }) {
    const [one, other] = this.heads;
    const rest = size - largest.reduce((sum, [, count]) => sum + count, 0);
    return make(
      "tr",
      {},
      make("th", { scope: "row" }, this.link(one, cluster)),
      make("td", { class: "amount" }, grouped(size)),
      make(
        "td",
        {},
        make(
          "span",
          { class: "holders" },
          largest.map(([number, count]) => this.holder(other, number, count, size)),
          rest > 0 ? make("span", { class: "quiet" }, `${percent(rest / size)} in others`) : null,
        ),
      ),
    );
  },

  /** A cluster of the other head, which share of this one's clips it holds, and which share of its own those are. */
  holder(head, number, count, size) {
    const whole = this.entries[1].get(number).size;
    const back = count === whole ? "all of it" : `${percent(count / whole)} of it`;
    return make("span", { class: "holder" }, make("b", {}, percent(count / size)), " in ", this.link(head, number), make("span", { class: "quiet" }, `, ${back}`));
  },

  link(head, cluster) {
    const name = names.overlay(head).nameOf(cluster);
    const words = name || this.entries[this.heads.indexOf(head)].get(cluster).suggestion || "";
    const place = head.head === app.index.chosenHead ? "" : `h${head.head}/`;
    return make("a", { href: `#/${place}cluster/${cluster}` }, String(cluster), words ? [" ", userText(words, name ? "given" : "suggested")] : null);
  },

  refresh() {
    this.list();
  },
};
