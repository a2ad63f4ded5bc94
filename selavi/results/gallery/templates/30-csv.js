// names.csv: RFC 4180, UTF-8, one row an edit.  The tools read the same format.

const REJECTED = { 1: true, true: true, "": false, 0: false, false: false }; // a spreadsheet writes TRUE
const NAMES_HEADER = ["head", "cluster", "id", "name", "into", "rejected"];

/** Cells as RFC 4180 has them, a line each. */
const csvText = (lines) => {
  const cell = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  return lines.map((cells) => `${cells.map((value) => cell(String(value ?? ""))).join(",")}\r\n`).join("");
};

const writeCsv = (rows) =>
  csvText([NAMES_HEADER, ...rows.map((row) => [row.head, row.cluster, row.id, row.name, row.into, row.rejected ? "1" : ""])]);

/** Give the browser a text to save as a file. */
const saveAs = (name, text) => {
  const url = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
};

/** The text of a file: UTF-8, or UTF-16 with a byte order mark, as spreadsheets write it. */
const textOf = (buffer) => {
  const [first, second] = new Uint8Array(buffer.slice(0, 2));
  const utf16 = first === 0xff && second === 0xfe ? "utf-16le" : first === 0xfe && second === 0xff ? "utf-16be" : null;
  try {
    return new TextDecoder(utf16 ?? "utf-8", { fatal: true }).decode(buffer);
  } catch {
    throw new Error("it is not UTF-8: save it as “CSV UTF-8”");
  }
};

/** The delimiter of a header line: the one of comma, semicolon and tab that stands in it most often. */
const delimiterOf = (header) => {
  const count = (mark) => header.split(mark).length;
  return [",", ";", "\t"].reduce((best, mark) => (count(mark) > count(best) ? mark : best));
};

/** [[line number, cells], ...] of a CSV text; a row without any text, as spreadsheets leave at the end, is left out. */
const parseCsv = (text) => {
  const records = [];
  let body = text.replace(/^\ufeff/, "");
  let line = 1;
  const told = /^sep=(.)(\r\n|\n|\r)/.exec(body); // Excel's own first line
  if (told) {
    body = body.slice(told[0].length);
    line = 2;
  }
  const mark = told ? told[1] : delimiterOf(/^[^\r\n]*/.exec(body)[0]);
  const part = new RegExp(`("(?:[^"]|"")*"|[^"${mark}\\r\\n]*)(${mark}|\\r\\n|\\n|\\r|$)`, "y");
  let cells = [];
  let first = line;
  while (part.lastIndex < body.length || cells.length) {
    const found = part.exec(body);
    if (!found) throw new Error(`line ${line}: a quotation mark stands where none may`);
    const [whole, value, end] = found;
    cells.push(value.startsWith('"') ? value.slice(1, -1).replaceAll('""', '"') : value);
    line += whole.split(/\r\n|\n|\r/).length - 1;
    if (end === mark) continue;
    if (cells.some((cell) => cell.trim())) records.push([first, cells]);
    cells = [];
    first = line;
    if (!end) break;
  }
  return records;
};

/** Rows of a names.csv, its columns in any order; an Error names the line and what is wrong with it. */
const readCsv = (text) => {
  const [header, ...records] = parseCsv(text);
  const columns = header?.[1] ?? [];
  while (columns.length && !columns.at(-1)) columns.pop(); // a spreadsheet's empty columns
  const unknown = columns.filter((name, i) => !NAMES_HEADER.includes(name) || columns.indexOf(name) !== i);
  if (unknown.length || !columns.includes("head") || !columns.includes("cluster"))
    throw new Error(`line 1: expected the columns ${NAMES_HEADER.join(",")}, found ${columns.join(",") || "none"}`);
  const seen = new Set();
  return records.map(([line, cells]) => {
    while (cells.length > columns.length && !cells.at(-1)) cells.pop();
    if (cells.length !== columns.length) throw new Error(`line ${line}: expected ${columns.length} cells, found ${cells.length}`);
    const cell = Object.fromEntries(columns.map((name, i) => [name, cells[i]]));
    const whole = (name) => {
      if (!/^\d{1,9}$/.test(cell[name])) throw new Error(`line ${line}, ${name}: expected a number from 0, found “${cell[name]}”`);
      return Number(cell[name]);
    };
    const rejected = REJECTED[(cell.rejected ?? "").toLowerCase()];
    if (rejected === undefined) throw new Error(`line ${line}, rejected: expected 1 or nothing, found “${cell.rejected}”`);
    const row = {
      head: whole("head"),
      cluster: whole("cluster"),
      id: cell.id || null,
      name: cell.name ?? "",
      into: cell.into ? whole("into") : null,
      rejected,
    };
    const about = row.id === null ? `${row.head}/${row.cluster}` : `${row.head}//${row.id}`;
    if (seen.has(about)) throw new Error(`line ${line}: a second row about the same ${row.id === null ? "cluster" : "clip"}`);
    if (row.rejected && row.into !== null) throw new Error(`line ${line}: a row either moves or rejects`);
    seen.add(about);
    return row;
  });
};

/** A cluster whose merges lead back to it, or undefined. */
const mergeCycle = (rows) => {
  const into = new Map(rows.filter((row) => row.id === null && row.into !== null).map((row) => [`${row.head}/${row.cluster}`, row]));
  return [...into.values()].find((row) => {
    let at = row;
    for (let steps = 0; at && steps <= into.size; steps += 1) {
      at = into.get(`${at.head}/${at.into}`);
      if (at === row) return true;
    }
    return false;
  });
};
