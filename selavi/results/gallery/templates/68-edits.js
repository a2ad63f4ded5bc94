// The page of names: what was edited, and names.csv out and in.

const EDITS_SHOWN = 500;

const namesView = {
  show() {
    this.words = make("p", { class: "lede", role: "status" });
    this.body = make("tbody");
    this.rest = make("p", { class: "quiet" });
    const file = make("input", { type: "file", accept: ".csv,text/csv", id: "import", hidden: true });
    file.addEventListener("change", async () => {
      const [chosen] = file.files;
      file.value = "";
      if (chosen) this.bring(chosen.name, await chosen.arrayBuffer());
    });
    this.problem = make("div");
    const run = app.index.run;
    const element = make(
      "div",
      { class: "names-view" },
      make("header", {}, make("h1", { id: "title", tabIndex: -1 }, "Names"), this.words),
      make(
        "div",
        { class: "names-actions" },
        button("Download names.csv", () => names.download(), { class: "primary" }, icon("download"), "Download names.csv"),
        button("Read a names.csv", () => file.click(), {}, icon("upload"), "Read a names.csv"),
        file,
        button("Undo", () => names.undo(), { class: "quiet-button", title: "u" }, "Undo the last edit"),
        button("Redo", () => names.redo(), { class: "quiet-button", title: "U" }, "Redo"),
      ),
      storage.usable ? null : fault("This browser keeps nothing for pages opened from disk: download names.csv before you close the page."),
      this.problem,
      make(
        "div",
        { class: "next-step" },
        make("p", {}, "Then every export carries the names:"),
        make("pre", { tabIndex: 0, "aria-label": "Command" }, make("code", {}, `selavi export ${run} --names names.csv`)),
      ),
      make(
        "div",
        { class: "table-place", tabIndex: 0, role: "region", "aria-label": "Edits" },
        make(
          "table",
          {},
          make("thead", {}, make("tr", {}, ["Head", "Cluster", "Clip", "Edit", ""].map((text) => make("th", { scope: "col" }, text || make("span", { class: "unseen" }, "Take back"))))),
          this.body,
        ),
      ),
      this.rest,
    );
    this.refresh();
    return element;
  },

  bring(name, buffer) {
    this.problem.replaceChildren();
    try {
      const rows = readCsv(textOf(buffer));
      const heads = new Set(app.index.heads.map((head) => head.head));
      const strange = rows.find((row) => !heads.has(row.head));
      if (strange) throw new Error(`head ${strange.head} is not in this gallery, which holds ${[...heads].join(", ")}`);
      const cycle = mergeCycle(rows);
      if (cycle) throw new Error(`the merges of cluster ${cycle.cluster} lead back to it`);
      names.replaceAll(rows, `${plural(rows.length, "row")} of ${name} took the place of the edits here`);
    } catch (error) {
      fillWith(this.problem, fault(`${name} was not read: ${error.message}.`));
    }
  },

  words_of(row) {
    const where = (cluster) => `cluster ${cluster}`;
    const did = [];
    if (row.name) did.push(["named ", userText(row.name, "strong")]);
    if (isConfirmed(row)) did.push(["confirmed"]);
    else if (row.into !== null) did.push([`${row.id === null ? "merged into" : "moved to"} ${where(row.into)}`]);
    if (row.rejected) did.push(["rejected"]);
    return did.flatMap((parts, i) => (i ? [", ", ...parts] : parts));
  },

  refresh() {
    const rows = names.sorted();
    const unsaved = names.numUnsaved();
    const state = unsaved ? `${plural(unsaved, "edit")} not downloaded yet.` : rows.length ? "names.csv holds them all." : "";
    this.words.textContent = rows.length
      ? `${plural(rows.length, "edit")}. ${state}`
      : "Nothing is edited yet.  Open a cluster, press n and write its name.";
    fillWith(this.body,
      ...rows.slice(0, EDITS_SHOWN).map((row) =>
        make(
          "tr",
          {},
          make("td", {}, String(row.head)),
          make("td", {}, row.head === app.head.head ? make("a", { href: routeToCluster(row.cluster) }, String(row.cluster)) : String(row.cluster)),
          make("td", { class: "mono" }, row.id === null ? "" : userText(row.id)),
          make("td", {}, this.words_of(row)),
          make("td", {}, button("Take back", () => names.edit(`Edit of cluster ${row.cluster} taken back`, [[row, { name: "", into: null, rejected: false }]]), { class: "link", "aria-label": `Take back the edit of ${row.id ?? `cluster ${row.cluster}`}` })),
        ),
      ),
    );
    this.rest.textContent = rows.length > EDITS_SHOWN ? `and ${grouped(rows.length - EDITS_SHOWN)} more in names.csv` : "";
  },
};
