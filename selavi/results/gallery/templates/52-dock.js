// The dock at the foot of the page: the clip looked at, what to do with the clips selected, the volume.

const dock = {
  tile: null,

  inspect(tile) {
    if (this.tile === tile) return;
    this.tile = tile;
    this.refresh();
  },

  refresh() {
    clipView.refresh();
    const place = byId("dock");
    const views = ["cluster", "map", "pairs", "compare", "queue"];
    place.hidden = !views.includes(route.view) || !(this.tile || selection.size);
    if (place.hidden) return;
    fillWith(byId("dock-clip"), ...(this.tile ? this.clipParts(this.tile.clip) : []));
    byId("dock-selection").hidden = !selection.size;
    byId("selected-count").textContent = `${plural(selection.size, "clip")} selected`;
    const { muted, volume } = player.settings;
    const mute = byId("mute");
    document.querySelector(".dock-sound").hidden = app.index.words;
    fillWith(mute, icon(muted ? "muted" : "sound"));
    mute.setAttribute("aria-pressed", String(muted));
    byId("volume").value = String(volume);
    byId("now").textContent = player.sounding ? "playing" : "";
  },

  clipParts(clip) {
    const facts = [
      ["confidence", clip.confidence],
      ["margin", clip.margin],
      ["entropy", clip.entropy],
      [app.index.words ? "modalities agree" : "sound and picture agree", clip.agreement],
      ["other heads keep it here", clip.heads],
    ].filter(([, value]) => value !== null && value !== undefined);
    const own = app.index.columns.map((name, i) => [name, clip.texts?.[i]]).filter(([, text]) => text !== null && text !== undefined);
    const strip = clip.thumb
      ? make(
          "span",
          { class: "whole-strip" },
          make("img", { src: clip.thumb, alt: "" }),
          evidence.shown && clip.evidence ? make("img", { class: "whole-overlay", src: clip.evidence, alt: "" }) : null,
          evidence.shown ? boxesOf(clip, "whole-overlay") : null,
        )
      : null;
    const end = clip.duration === null || clip.duration === undefined ? "" : ` to ${decimals(clip.start + clip.duration)} s`;
    return [
      strip,
      make(
        "span",
        { class: "dock-words" },
        userText(clip.id, "dock-id"),
        make(
          "span",
          { class: "dock-facts" },
          clip.label ? make("span", {}, userText(clip.label, "strong")) : null,
          own.map(([name, text]) => make("span", {}, userText(name), " ", userText(text, "strong"))),
          facts.map(([name, value]) => make("span", {}, `${name} `, make("b", {}, decimals(value)))),
          clip.start > 0 ? make("span", {}, `from ${decimals(clip.start)}${end}`) : null,
        ),
      ),
      button("Large", () => clipView.openTile(this.tile), { class: "dock-large", title: "See the clip large (Space)" }, icon("whole"), "Large"),
    ];
  },

  chosen: () => [...selection.values()],

  start() {
    byId("mute").addEventListener("click", () => player.toggleMute());
    byId("volume").addEventListener("input", (event) => player.change({ volume: Number(event.target.value), muted: false }));
    byId("split").addEventListener("click", () => {
      const number = edits.split(this.chosen());
      clearSelection();
      say(`Split off as the new cluster ${number}.`, ["Name it", () => go(routeToCluster(number))]);
    });
    byId("reject-clips").addEventListener("click", () => (edits.rejectClips(this.chosen()), clearSelection()));
    byId("confirm-clips").addEventListener("click", () => (edits.confirmClips(this.chosen()), clearSelection()));
    byId("restore-clips").addEventListener("click", () => (edits.restoreClips(this.chosen()), clearSelection()));
    byId("save-clips").addEventListener("click", () => saveSelection());
    byId("clear-selection").addEventListener("click", clearSelection);
    byId("move").addEventListener("submit", (event) => {
      event.preventDefault();
      const into = readCluster(byId("move-into").value);
      if (into === null) return;
      edits.moveClips(this.chosen(), into);
      byId("move-into").value = "";
      clearSelection();
    });
  },
};

/** The cluster that a person wrote, by number or by name; null, with words, where there is none. */
const readCluster = (text) => {
  const overlay = names.overlay();
  const exists = (number) => app.clusters.has(number) || overlay.created.includes(number);
  const number = /^\s*#?(\d+)(\s|$)/.exec(text);
  if (number && exists(Number(number[1]))) return Number(number[1]);
  const sought = text.trim().toLowerCase();
  const named = allClusters().filter((cluster) => sought && overlay.nameOf(cluster).toLowerCase() === sought);
  if (named.length === 1) return named[0];
  say(named.length ? `Clusters ${named.join(" and ")} have that name: give the number.` : `There is no cluster “${text.trim()}”.`);
  return null;
};

/** Numbers of the clusters found and of those split off. */
const allClusters = () => [...app.clusters.keys(), ...names.overlay().created];

const refreshSuggestions = () => {
  const overlay = names.overlay();
  const given = allClusters().map((cluster) => overlay.nameOf(cluster)).filter(Boolean);
  const labels = app.head.clusters.flatMap((cluster) => [cluster.suggestion, ...cluster.labels.map(([label]) => label)]);
  const known = [...new Set([...given, ...labels.filter(Boolean)])].slice(0, 1000);
  fillWith(byId("known-names"), ...known.map((name) => make("option", { value: name })));
  const clusters = allClusters().slice(0, 2000);
  fillWith(byId("known-clusters"),
    ...clusters.map((cluster) => make("option", { value: `${cluster} ${overlay.nameOf(cluster) || app.clusters.get(cluster)?.suggestion || ""}`.trim() })),
  );
};
