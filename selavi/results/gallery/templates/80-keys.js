// Keys that work everywhere, the help, the colour scheme.

const SCHEMES = ["light dark", "light", "dark"];
const SCHEME_WORDS = { "light dark": "as the system", light: "light", dark: "dark" };
const SCHEME_ICONS = { "light dark": "scheme", light: "sun", dark: "moon" };

const scheme = {
  start() {
    this.set(SCHEMES.includes(storage.read("selavi.scheme")) ? storage.read("selavi.scheme") : SCHEMES[0]);
    byId("scheme").addEventListener("click", () => {
      const next = SCHEMES[(SCHEMES.indexOf(this.now) + 1) % SCHEMES.length];
      storage.write("selavi.scheme", next);
      this.set(next);
      say(`Colours: ${SCHEME_WORDS[next]}.`);
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawCanvases);
  },
  set(now) {
    this.now = now;
    document.documentElement.style.colorScheme = now;
    const label = `Colours: ${SCHEME_WORDS[now]}`;
    const place = byId("scheme");
    fillWith(place, icon(SCHEME_ICONS[now]));
    place.title = label;
    place.setAttribute("aria-label", label);
    redrawCanvases();
  },
};

const redrawCanvases = () => {
  if (!app.index) return;
  if (indexView.element) indexView.draw();
  if (route.view === "map") mapView.redress();
  if (route.view === "labels") labelsView.draw();
};

const isTyping = (element) => element.matches("input:not([type=checkbox]):not([type=range]), select, textarea");

const shortcuts = {
  "/": () => {
    if (route.view !== "index") go(routeTo(""));
    setTimeout(() => byId("search")?.focus(), 0);
  },
  "?": () => help.showModal(),
  q: () => go(routeTo("queue")),
  m: () => player.toggleMute(),
  u: () => names.undo(),
  U: () => names.redo(),
  Escape: () => {
    if (player.sounding) player.listen(player.sounding);
    else if (selection.size) clearSelection();
    else if (route.view === "index" && indexView.picked.size) indexView.letGo();
    else hush();
  },
};
const clusterShortcuts = {
  j: () => neighbour(1) !== null && go(routeToCluster(neighbour(1))),
  k: () => neighbour(-1) !== null && go(routeToCluster(neighbour(-1))),
  n: () => clusterView.name.select(),
  l: () => clusterView.name.select(),
  y: () => {
    const { suggestion } = clusterView.entry;
    if (suggestion && !names.overlay().nameOf(clusterView.number)) edits.nameCluster(clusterView.number, suggestion);
  },
  e: () => byId("evidence")?.click(),
  p: () => clusterView.rows.querySelector(".row .link")?.click(),
};

for (const place of [0, 1, 2, 3]) clusterShortcuts[place + 1] = () => clusterView.mergeNearest(place);
const pairShortcuts = {
  y: () => pairsView.answer(true),
  n: () => pairsView.answer(false),
  b: () => pairsView.forget(),
  p: () => player.listenAll(shownTiles),
};
const compareShortcuts = {
  y: () => compareView.answer(true),
  n: () => compareView.answer(false),
  p: () => compareView.hear(),
};
const indexShortcuts = {
  c: () => indexView.picked.size === 2 && go(indexView.routeToPicked()),
  x: () => indexView.pick(document.activeElement?.closest("li")?.querySelector("a.card")),
  g: () => indexView.picked.size && indexView.joinPicked(),
  r: () => indexView.picked.size && indexView.rejectPicked(),
};
const VIEW_SHORTCUTS = {
  cluster: clusterShortcuts, pairs: pairShortcuts, compare: compareShortcuts, index: indexShortcuts, queue: queueShortcuts,
};

const onKey = (event) => {
  if (help.open || event.altKey) return;
  const key = event.key.toLowerCase();
  if ((event.ctrlKey || event.metaKey) && ["y", "z"].includes(key) && !isTyping(event.target)) {
    event.preventDefault();
    if (key === "y" || event.shiftKey) names.redo();
    else names.undo();
    return;
  }
  if (event.ctrlKey || event.metaKey) return;
  if (isTyping(event.target)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (clipView.isOpen()) {
    clipView.key(event);
    return;
  }
  const act = shortcuts[event.key] ?? VIEW_SHORTCUTS[route.view]?.[event.key];
  if (act) {
    event.preventDefault();
    act();
  } else if (event.key === "x") {
    const tile = tileOf(event.target);
    if (tile) toggleSelected(tile);
  } else if (event.key.startsWith("Arrow") && event.target.matches("body, h1, main")) {
    // From the heading, an arrow goes to the first tile or card.
    const first = byId("main").querySelector("[data-grid] [tabindex='0']");
    if (first) {
      event.preventDefault();
      first.focus();
    }
  }
};

/** A menu that was used with the pointer gives the keys back; who steps through it with the arrows goes on. */
const freeMenus = () => {
  let byPointer = false;
  addEventListener("pointerdown", () => (byPointer = true), true);
  addEventListener("keydown", () => (byPointer = false), true);
  addEventListener("change", ({ target }) => byPointer && target.matches("select") && target.blur());
};

const help = byId("help");
