// Filter expressions, as gamma < 0.2 and category = "S2": each becomes a test of rows, or a line of what is wrong.

const TOKEN = /\s*(?:(<=|>=|!=|=|<|>|~|\(|\)|,)|"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'|([^\s<>=!~(),"']+))/gy;
const SHORTHAND = "a field, then one of < <= > >= = != ~ (contains) or is unknown, then a value";

class FilterError extends Error {}

/** A function of a row; null for an empty expression. FilterError names what is wrong and what would be right. */
function compiled(expression) {
  const tokens = tokensOf(expression);
  if (!tokens.length) return null;
  const at = { tokens, place: 0 };
  const test = either(at);
  if (at.place < tokens.length) throw new FilterError(`“${tokens[at.place].text}” is one too many: join with and, or`);
  return test;
}

function tokensOf(expression) {
  const tokens = [];
  const end = expression.trimEnd().length;
  TOKEN.lastIndex = 0;
  while (TOKEN.lastIndex < end) {
    const from = TOKEN.lastIndex;
    const match = TOKEN.exec(expression);
    if (!match) throw new FilterError(`“${expression.slice(from).trim()}” can't be read: a quote may not be closed`);
    const [, sign, double, single, word] = match;
    if (sign) tokens.push({ kind: "sign", text: sign });
    else if (word !== undefined) tokens.push({ kind: "word", text: word });
    else tokens.push({ kind: "text", text: (double ?? single).replace(/\\(.)/g, "$1") });
  }
  return tokens;
}

function is(at, ...texts) {
  const token = at.tokens[at.place];
  return token !== undefined && token.kind !== "text" && texts.includes(token.text.toLowerCase());
}

function take(at, what) {
  const token = at.tokens[at.place++];
  if (!token) throw new FilterError(`it ends where ${what} should follow`);
  return token;
}

function either(at) {
  const tests = [both(at)];
  while (is(at, "or")) {
    at.place++;
    tests.push(both(at));
  }
  return tests.length === 1 ? tests[0] : (row) => tests.some((test) => test(row));
}

function both(at) {
  const tests = [single(at)];
  while (is(at, "and")) {
    at.place++;
    tests.push(single(at));
  }
  return tests.length === 1 ? tests[0] : (row) => tests.every((test) => test(row));
}

function single(at) {
  if (is(at, "not")) {
    at.place++;
    const test = single(at);
    return (row) => !test(row);
  }
  if (is(at, "(")) {
    at.place++;
    const test = either(at);
    if (!is(at, ")")) throw new FilterError("a ( is not closed");
    at.place++;
    return test;
  }
  return comparison(at);
}

function comparison(at) {
  const field = take(at, "a field").text;
  if (!(field in fieldMeanings())) throw new FilterError(unknownField(field));
  if (field === "flagged" && !is(at, "=", "!=")) return (row) => flagOf(row) !== null;
  if (is(at, "is")) {
    at.place++;
    const no = is(at, "not");
    if (no) at.place++;
    if (take(at, "unknown").text !== "unknown") throw new FilterError(`after ${field} is comes unknown or not unknown`);
    return (row) => (valueOf(field, row) === null) !== no;
  }
  if (is(at, "in")) {
    at.place++;
    return among(field, listed(at));
  }
  const sign = take(at, "<, >, = or ~").text;
  if (!["<", "<=", ">", ">=", "=", "!=", "~"].includes(sign))
    throw new FilterError(`${field} ${sign}: write ${SHORTHAND}`);
  const value = take(at, "a value").text;
  return comparedWith(field, sign, value);
}

function listed(at) {
  if (!is(at, "(")) throw new FilterError('after in comes a list: category in ("S1", "S2")');
  const values = [];
  do {
    at.place++;
    values.push(take(at, "a value").text);
  } while (is(at, ","));
  if (!is(at, ")")) throw new FilterError("the list is not closed");
  at.place++;
  return values;
}

function among(field, values) {
  const tests = values.map((value) => comparedWith(field, "=", value));
  return (row) => tests.some((test) => test(row));
}

/** What a row has in a field: a number, a text, or null where it is unknown. */
function valueOf(field, row) {
  if (field === "id") return pairs.ids[row];
  if (field === "text") return searched(row);
  if (field === "flagged") return flagOf(row)?.action ?? null;
  if (field === "note") return flagOf(row)?.note || null;
  const column = pairs.columns[field];
  if (column.kind === "word") return column.words[column.codes[row]] || null;
  return Number.isNaN(column.values[row]) ? null : column.values[row];
}

function comparedWith(field, sign, value) {
  const column = pairs.columns[field];
  if (column?.kind === "number") return comparedNumber(field, column.values, sign, value);
  if (["<", "<=", ">", ">="].includes(sign)) throw new FilterError(`${field} is text: compare it with =, != or ~`);
  const wanted = value.toLowerCase();
  const fits = sign === "~" ? (text) => text.toLowerCase().includes(wanted) : (text) => text.toLowerCase() === wanted;
  if (column?.kind === "word") {
    const fitting = column.words.map((word, code) => code > 0 && fits(word));
    return sign === "!="
      ? (row) => column.codes[row] > 0 && !fitting[column.codes[row]]
      : (row) => fitting[column.codes[row]];
  }
  return (row) => {
    const text = valueOf(field, row);
    return text !== null && fits(text) !== (sign === "!=");
  };
}

/** Numbers are known to four digits: = means equal to these. Unknown ones fit no comparison. */
function comparedNumber(field, values, sign, text) {
  const value = { true: 1, yes: 1, false: 0, no: 0 }[text.toLowerCase()] ?? Number(text);
  if (text === "" || Number.isNaN(value)) throw new FilterError(`${field} is a number, and “${text}” is none`);
  const near = Math.abs(value) * 1e-4;
  switch (sign) {
    case "<":
      return (row) => values[row] < value;
    case "<=":
      return (row) => values[row] <= value + near;
    case ">":
      return (row) => values[row] > value;
    case ">=":
      return (row) => values[row] >= value - near;
    case "=":
      return (row) => Math.abs(values[row] - value) <= near;
    case "!=":
      return (row) => Math.abs(values[row] - value) > near;
    default:
      throw new FilterError(`${field} is a number: compare it with <, <=, >, >=, = or !=`);
  }
}

function unknownField(name) {
  const fields = Object.keys(fieldMeanings());
  const [nearest] = fields.map((field) => [distance(name.toLowerCase(), field), field]).sort((a, b) => a[0] - b[0]);
  const guess = nearest[0] <= 3 ? `: did you mean ${nearest[1]}?` : `; there are ${fields.join(", ")}`;
  return `no field “${name}”${guess}`;
}

/** How many letters differ, by Levenshtein. */
function distance(a, b) {
  let before = Array.from({ length: b.length + 1 }, (_, at) => at);
  for (let i = 1; i <= a.length; i++) {
    const now = [i];
    for (let j = 1; j <= b.length; j++) {
      now[j] = Math.min(now[j - 1] + 1, before[j] + 1, before[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1));
    }
    before = now;
  }
  return before[b.length];
}
