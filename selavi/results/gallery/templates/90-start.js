// The router, and the start.

const route = { view: null };

const go = (address) => {
  location.hash = address.slice(1);
};

/** #/h1/cluster/12/clip/ID -> {head: 1, view: "cluster", cluster: 12, id: "ID"}; h1 only where another head is shown. */
const readRoute = (hash) => {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?");
  const parts = path.split("/");
  const head = /^h\d+$/.test(parts[0]) ? Number(parts.shift().slice(1)) : app.index.chosenHead;
  const [view, number, kind, ...rest] = parts;
  if (view === "cluster" && /^\d+$/.test(number ?? "")) {
    let id = null;
    try {
      if (kind === "clip") id = decodeURIComponent(rest.join("/"));
    } catch {
      say("The address names no clip that could be read.");
    }
    return { head, view: "cluster", cluster: Number(number), id, query };
  }
  const isNumber = (text) => /^\d+$/.test(text ?? "");
  if (view === "compare" && isNumber(number) && isNumber(kind) && number !== kind) return { head, view, one: Number(number), other: Number(kind) };
  if (view === "heads" && app.index.heads.length > 1) return readHeads(Number(number), Number(kind));
  if (view === "map" && app.index.hasMap) return { head, view: "map" };
  if (view === "labels" && app.index.labelled) return { head, view: "labels" };
  if (view === "pairs" && app.index.heads.some((each) => each.hasPairs)) return { head, view };
  if (view === "large" && /^\d+$/.test(number ?? "")) return clipView.readRoute(head, number, [kind, ...rest]);
  if (view === "queue") return { head, view, place: [number, kind] };
  if (view === "names" || view === "help") return { head, view };
  return { head, view: "index" };
};

/** #/heads/1/2; heads that are not there are left for those that are. */
const readHeads = (first, second) => {
  const numbers = app.index.heads.map((each) => each.head);
  const head = numbers.includes(first) ? first : app.index.chosenHead;
  const other = numbers.includes(second) && second !== head ? second : numbers.find((number) => number !== head);
  return { head, view: "heads", one: head, other };
};

const viewTitles = {
  index: "", map: "Map", labels: "Labels", names: "Names", pairs: "Pairs", compare: "Two clusters", heads: "Two heads", queue: "Queue",
};

const showRoute = () => {
  const next = clipView.beneath(readRoute(location.hash));
  if (!next) return;
  if (next.view === "help") {
    help.showModal();
    if (route.view) return;
    next.view = "index";
  }
  const before = { ...route };
  if (before.view === "index") indexView.scroll = scrollY;
  const otherHead = app.head?.head !== next.head;
  chooseHead(next.head);
  Object.assign(route, next);
  if (next.view === "cluster" && !allClusters().includes(next.cluster)) {
    say(`Head ${app.head.head} has no cluster ${next.cluster}.`);
    route.view = "index";
  }
  const stranger = next.view === "compare" ? [next.one, next.other].find((cluster) => !allClusters().includes(cluster)) : undefined;
  if (stranger !== undefined) {
    say(`Head ${app.head.head} has no cluster ${stranger}.`);
    route.view = "index";
  }
  forgetTiles();
  selection.clear();
  if (otherHead) {
    refreshSuggestions();
    refreshHeader();
  }
  if (!indexView.entries || otherHead) indexView.show(); // j and k follow its order
  const main = byId("main");
  const element =
    route.view === "cluster" ? clusterView.show(route.cluster, route.id)
    : route.view === "map" ? mapView.show()
    : route.view === "labels" ? labelsView.show()
    : route.view === "names" ? namesView.show()
    : route.view === "pairs" ? pairsView.show()
    : route.view === "queue" ? queueView.show(route.place)
    : route.view === "compare" ? compareView.show(route.one, route.other)
    : route.view === "heads" ? headsView.show(route.one, route.other)
    : indexView.show();
  fillWith(main, element);
  main.className = `on-${route.view}`;
  const words = route.view === "cluster" ? `Cluster ${spoken(route.cluster)}` : viewTitles[route.view];
  document.title = words ? `${words} · ${app.index.title}` : app.index.title;
  for (const link of document.querySelectorAll(".views a"))
    link.dataset.view === route.view || (link.dataset.view === "index" && ["cluster", "pairs", "compare", "heads"].includes(route.view))
      ? link.setAttribute("aria-current", "page")
      : link.removeAttribute("aria-current");
  if (route.view === "index" && before.view) {
    scrollTo(0, indexView.scroll);
    if (before.view === "cluster") indexView.cards.querySelector(`[data-cluster="${before.cluster}"]`)?.focus({ preventScroll: true });
  } else if (before.view) {
    scrollTo(0, 0);
    if (route.id === null || route.id === undefined) element.querySelector("h1")?.focus({ preventScroll: true });
  }
  dock.refresh();
  clipView.settle();
};

/** Links to the views keep the head; the badge counts edits that names.csv does not hold. */
const refreshHeader = () => {
  for (const link of document.querySelectorAll(".views a"))
    link.href = routeTo({ index: "", map: "map", labels: "labels", queue: "queue", names: "names" }[link.dataset.view]);
  byId("head").value = String(app.head.head);
  byId("head-words").textContent = app.head.head === app.index.chosenHead ? "recommended" : "";
  const unsaved = names.numUnsaved();
  byId("unsaved").textContent = unsaved ? grouped(unsaved) : "";
  byId("unsaved").hidden = !unsaved;
  byId("unsaved-words").textContent = unsaved ? `, ${plural(unsaved, "edit")} not downloaded` : "";
};

const refreshAll = () => {
  refreshHeader();
  refreshSuggestions();
  if (indexView.element) indexView.refresh();
  if (route.view === "cluster") clusterView.refresh();
  if (route.view === "map") mapView.refresh();
  if (route.view === "labels") labelsView.refresh();
  if (route.view === "names") namesView.refresh();
  if (route.view === "pairs") pairsView.refresh();
  if (route.view === "queue") queueView.refresh();
  if (route.view === "compare") compareView.refresh();
  if (route.view === "heads") headsView.refresh();
  dock.refresh();
};

const start = (index) => {
  app.index = index;
  const { tile, heads } = index;
  const root = document.documentElement.style;
  root.setProperty("--tile-width", tile.width);
  root.setProperty("--tile-height", tile.height);
  root.setProperty("--sound-height", tile.spectrogram);
  root.setProperty("--total-height", (tile.frames ? tile.height : 0) + tile.spectrogram);
  evidence.shown = (index.hasEvidence || index.hasBoxes) && storage.read("selavi.evidence") === true;
  names.start();
  names.listeners.add(refreshAll);
  chooseHead(index.chosenHead);
  byId("views").hidden = false;
  byId("map-link").hidden = !index.hasMap;
  byId("labels-link").hidden = !index.labelled;
  byId("head-field").hidden = heads.length < 2;
  fillWith(byId("head"),
    ...heads.map((head) =>
      make("option", { value: String(head.head), title: head.agreement === null ? null : `agreement ${decimals(head.agreement)}` }, String(head.head))),
  );
  byId("head").addEventListener("change", (event) => {
    const head = Number(event.target.value);
    if (route.view === "heads") {
      go(`#/heads/${head}/${head === route.other ? route.one : route.other}`);
      return;
    }
    const place = ["map", "labels", "names", "pairs", "queue"].includes(route.view) ? route.view : "";
    go(`#/${head === index.chosenHead ? "" : `h${head}/`}${place}`);
  });
  player.start();
  dock.start();
  refreshSuggestions();
  refreshHeader();
  if (!storage.usable) say("This browser keeps no edits for pages opened from disk: download names.csv before you close the page.");
  addEventListener("hashchange", showRoute);
  addEventListener("keydown", onKey);
  freeMenus();
  addEventListener("beforeunload", (event) => {
    if (!storage.usable && names.numUnsaved()) event.preventDefault();
  });
  byId("help-button").addEventListener("click", () => help.showModal());
  help.addEventListener("close", () => {
    if (location.hash.endsWith("/help")) history.replaceState(null, "", "#/");
  });
  showRoute();
};

scheme.start();
load("data/index.js", "index").then(start, (error) => fillWith(byId("main"), fault(error.message)));
