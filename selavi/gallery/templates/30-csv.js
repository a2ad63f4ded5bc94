// names.csv: RFC 4180, UTF-8, one row an edit.  The tools read the same format.

const NAMES_HEADER = ["head", "cluster", "id", "name", "into", "rejected"];

const writeCsv = (rows) => {
  const cell = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const line = (row) =>
    [row.head, row.cluster, row.id ?? "", row.name, row.into ?? "", row.rejected ? "1" : ""].map((value) => cell(String(value))).join(",");
  return [NAMES_HEADER.join(","), ...rows.map(line)].map((text) => `${text}\r\n`).join("");
};

/** [[line number, cells], ...] of a CSV text; a line without any text is left out. */
const parseCsv = (text) => {
  const records = [];
  const part = /("(?:[^"]|"")*"|[^",\r\n]*)(,|\r\n|\n|\r|$)/y;
  let cells = [];
  let line = 1;
  let first = 1;
  const body = text.replace(/^\ufeff/, "");
  while (part.lastIndex < body.length || cells.length) {
    const found = part.exec(body);
    if (!found) throw new Error(`line ${line}: a quotation mark stands where none may`);
    const [whole, value, end] = found;
    cells.push(value.startsWith('"') ? value.slice(1, -1).replaceAll('""', '"') : value);
    line += whole.split(/\r\n|\n|\r/).length - 1;
    if (end === ",") continue;
    if (cells.length > 1 || cells[0]) records.push([first, cells]);
    cells = [];
    first = line;
    if (!end) break;
  }
  return records;
};

/** Rows of a names.csv; an Error names the line and what is wrong with it. */
const readCsv = (text) => {
  const [header, ...records] = parseCsv(text);
  if (!header || header[1].join() !== NAMES_HEADER.join())
    throw new Error(`the first line must be ${NAMES_HEADER.join(",")}`);
  const whole = (line, column, value) => {
    if (!/^\d{1,9}$/.test(value)) throw new Error(`line ${line}, ${column}: expected a number from 0, found “${value}”`);
    return Number(value);
  };
  return records.map(([line, cells]) => {
    if (cells.length !== NAMES_HEADER.length) throw new Error(`line ${line}: expected 6 cells, found ${cells.length}`);
    const [head, cluster, id, name, into, rejected] = cells;
    if (!["", "0", "1"].includes(rejected)) throw new Error(`line ${line}, rejected: expected 1 or nothing, found “${rejected}”`);
    return {
      head: whole(line, "head", head),
      cluster: whole(line, "cluster", cluster),
      id: id || null,
      name,
      into: into ? whole(line, "into", into) : null,
      rejected: rejected === "1",
    };
  });
};
