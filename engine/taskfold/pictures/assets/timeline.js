// The timeline of tasks: reads the columns of the page's data, and draws them. Texts become text nodes, never markup.
(() => {
"use strict";

const byId = (id) => document.getElementById(id);

/** Return a new element with a class and children; texts become text nodes. */
const element = (name, className = "", ...children) => {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
};

// --- the model: columns as typed arrays ---

const sums = (lengths) => {
  const ends = new Int32Array(lengths.length + 1);
  lengths.forEach((length, at) => { ends[at + 1] = ends[at] + length; });
  return ends;
};

/** Return the model of a page's data; O(data). Times are microseconds since the origin. */
const modelOf = (data) => {
  const { texts, allocs, lanes, intervals, events } = data;
  const laneCount = lanes.alloc.length, allocCount = allocs.id.length;
  const intervalsOf = sums(lanes.intervals);
  const start = new Float64Array(intervals.start.length), end = new Float64Array(intervals.start.length);
  for (let lane = 0; lane < laneCount; lane += 1) {
    let time = 0;
    for (let at = intervalsOf[lane]; at < intervalsOf[lane + 1]; at += 1) {
      start[at] = time + intervals.start[at];
      time = end[at] = start[at] + intervals.length[at];
    }
  }
  const total = events.time.length;
  const time = new Float64Array(total), index = new Float64Array(total), version = new Float64Array(total);
  const ownFrom = new Int32Array(allocCount), eventsFrom = new Int32Array(laneCount);
  let at = 0, lane = 0;
  const readRun = (count) => {
    let sumTime = 0, sumIndex = 0, sumVersion = 0;
    for (const stop = at + count; at < stop; at += 1) {
      time[at] = sumTime += events.time[at];
      index[at] = sumIndex += events.index[at];
      version[at] = sumVersion += events.version[at];
    }
  };
  const firstLane = new Int32Array(allocCount + 1);
  for (let alloc = 0; alloc < allocCount; alloc += 1) {
    firstLane[alloc] = lane;
    ownFrom[alloc] = at;
    readRun(allocs.events[alloc]);
    for (; lane < laneCount && lanes.alloc[lane] === alloc; lane += 1) {
      eventsFrom[lane] = at;
      readRun(lanes.events[lane]);
    }
  }
  firstLane[allocCount] = lane;
  const pending = new Float64Array(laneCount);
  for (let one = 0; one < laneCount; one += 1) {
    for (let each = intervalsOf[one]; each < intervalsOf[one + 1]; each += 1) {
      if (data.kinds[intervals.kind[each]].state === "pending") pending[one] += end[each] - start[each];
    }
  }
  const span = Math.max(data.end, 1);
  return {
    data, texts, kinds: data.kinds, marks: data.marks, laneCount, allocCount, span,
    origin: BigInt(data.origin_ns),
    allocOf: Int32Array.from(lanes.alloc), taskOf: lanes.task, restarts: lanes.restarts, pending,
    firstLane, intervalsOf, start, end, kind: Uint8Array.from(intervals.kind),
    ownFrom, ownCount: allocs.events, eventsFrom, eventCount: lanes.events,
    time, index, version, type: events.type, message: events.message, mark: Uint8Array.from(events.mark),
    id: allocs.id,
    text: (column, alloc) => texts[allocs[column][alloc]],
    number: (column, alloc) => allocs[column][alloc],
  };
};

/** Return the first place in [from, to) whose value is above a bound. */
const firstAbove = (values, bound, from, to) => {
  while (from < to) {
    const middle = (from + to) >> 1;
    if (values[middle] > bound) to = middle; else from = middle + 1;
  }
  return from;
};

// --- words ---

const two = (number) => String(number).padStart(2, "0");

const durationText = (us) => {
  if (us < 1e3) return `${Math.round(us)} µs`;
  if (us < 1e6) return `${+(us / 1e3).toPrecision(3)} ms`;
  const seconds = us / 1e6;
  if (seconds < 60) return `${+seconds.toPrecision(3)} s`;
  const whole = Math.round(seconds), minutes = Math.floor(whole / 60), hours = Math.floor(minutes / 60);
  if (hours >= 24) return `${Math.floor(hours / 24)} d ${hours % 24} h`;
  return hours ? `${hours} h ${two(minutes % 60)} min` : `${minutes} min ${two(whole % 60)} s`;
};

const timeText = (model, us, digits = 3) => {
  const sum = model.origin / 1000n + BigInt(Math.floor(us));
  const date = new Date(Number(sum / 1000n));
  if (Number.isNaN(date.getTime())) return `${sum} µs`;
  const text = date.toISOString().replace("T", " ").slice(0, 23);
  return digits > 3 ? text + String(sum % 1000n).padStart(3, "0") : text;
};

const countText = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
const shortId = (id) => (/^[0-9a-f]{8}-/.test(id) ? id.slice(0, 8) : id);

/** Return JSON text on lines of its own; numbers and texts stay as they are, to the letter. */
const prettyJson = (text) => {
  const parts = text.match(/"(?:[^"\\]|\\.)*"|[{}[\],:]|[^{}[\],:\s"]+/gs) || [];
  let indent = "", result = "";
  parts.forEach((part, at) => {
    if (part === "{" || part === "[") {
      const isEmpty = parts[at + 1] === "}" || parts[at + 1] === "]";
      if (!isEmpty) indent += "  ";
      result += isEmpty ? part : `${part}\n${indent}`;
    } else if (part === "}" || part === "]") {
      const isEmpty = parts[at - 1] === "{" || parts[at - 1] === "[";
      if (!isEmpty) indent = indent.slice(2);
      result += isEmpty ? part : `\n${indent}${part}`;
    } else if (part === ",") result += `,\n${indent}`;
    else result += part === ":" ? ": " : part;
  });
  return result;
};

/** Return the JSON of an allocation at an index, as text; null where the page does not carry it. */
const bodyAt = (model, alloc, index) => {
  const steps = model.data.bodies[alloc];
  if (!steps) return null;
  const members = new Map(), tasks = new Map(), { texts } = model;
  const change = (map, changes) => {
    for (let at = 0; at < changes.length; at += 2) {
      if (changes[at + 1] < 0) map.delete(texts[changes[at]]); else map.set(texts[changes[at]], texts[changes[at + 1]]);
    }
  };
  for (const [at, changes, taskChanges] of steps) {
    if (at > index) break;
    change(members, changes);
    for (const [name, parts, dropped, added] of taskChanges) {
      if (dropped < 0) { tasks.delete(texts[name]); continue; }
      const task = tasks.get(texts[name]) || { members: new Map(), events: [] };
      tasks.set(texts[name], task);
      change(task.members, parts);
      task.events = [...task.events.slice(dropped), ...added.map((one) => texts[one])];
    }
  }
  const object = (map, more = []) => {
    const pairs = [...map, ...more].sort(([one], [other]) => (one < other ? -1 : 1));
    return `{${pairs.map(([name, value]) => `${JSON.stringify(name)}:${value}`).join(",")}}`;
  };
  const taskText = ({ members: own, events }) => object(own, events.length ? [["Events", `[${events.join(",")}]`]] : []);
  const taskTexts = new Map([...tasks].map(([name, task]) => [name, taskText(task)]));
  return prettyJson(object(members, taskTexts.size ? [["TaskStates", object(taskTexts)]] : []));
};

// --- which lanes are shown, in which order ---

const rowsOf = (model, choice) => {
  const { texts } = model;
  const wanted = choice.text.trim().toLowerCase();
  const hits = wanted ? new Set(texts.flatMap((text, at) => (text.toLowerCase().includes(wanted) ? [at] : []))) : null;
  const hasText = (lane) => {
    const alloc = model.allocOf[lane];
    if (model.id[alloc].toLowerCase().includes(wanted) || hits.has(model.taskOf[lane])) return true;
    if (["job", "group", "node", "node_name", "name", "status", "desired"].some((one) => hits.has(model.number(one, alloc)))) return true;
    const stop = model.eventsFrom[lane] + model.eventCount[lane];
    for (let at = model.eventsFrom[lane]; at < stop; at += 1) {
      if (hits.has(model.message[at]) || hits.has(model.type[at])) return true;
    }
    return false;
  };
  const fits = (column, value, alloc) => value === "" || model.number(column, alloc) === Number(value);
  const lanes = [];
  for (let lane = 0; lane < model.laneCount; lane += 1) {
    const alloc = model.allocOf[lane];
    if (fits("job", choice.job, alloc) && fits("node", choice.node, alloc) && fits("status", choice.status, alloc)
      && (!wanted || hasText(lane))) lanes.push(lane);
  }
  const startOf = (lane) => (model.intervalsOf[lane] < model.intervalsOf[lane + 1] ? model.start[model.intervalsOf[lane]] : model.span);
  const nameOf = (lane) => `${model.text("job", model.allocOf[lane])}\0${model.id[model.allocOf[lane]]}\0${texts[model.taskOf[lane]]}`;
  const names = choice.sort === "name" ? new Map(lanes.map((lane) => [lane, nameOf(lane)])) : null;
  const order = {
    start: (one, other) => startOf(one) - startOf(other),
    restarts: (one, other) => model.restarts[other] - model.restarts[one],
    pending: (one, other) => model.pending[other] - model.pending[one],
    name: (one, other) => (names.get(one) < names.get(other) ? -1 : 1),
  }[choice.sort];
  lanes.sort((one, other) => order(one, other) || one - other);
  if (choice.group === "none") return { rows: lanes.map((lane) => ({ lane })), lanes };
  const key = choice.group === "alloc" ? (alloc) => alloc : (alloc) => model.number(choice.group, alloc);
  const groups = new Map();
  for (const lane of lanes) {
    const one = key(model.allocOf[lane]);
    if (groups.has(one)) groups.get(one).push(lane); else groups.set(one, [lane]);
  }
  const rows = [], ordered = [];
  for (const [one, members] of groups) {
    rows.push({ group: one, members });
    for (const lane of members) {
      ordered.push(lane);
      if (!choice.closed.has(one)) rows.push({ lane });
    }
  }
  return { rows, lanes: ordered };
};

const groupTitle = (model, kind, row) => {
  const alloc = model.allocOf[row.members[0]];
  if (kind === "alloc") {
    const words = [model.text("job", alloc), shortId(model.id[alloc]), model.text("status", alloc)];
    return words.filter(Boolean).join(" · ");
  }
  const name = kind === "node" ? model.text("node_name", alloc) || shortId(model.text("node", alloc)) : model.text("job", alloc);
  return `${name || `no ${kind}`} · ${countText(row.members.length, "task")}`;
};

// --- drawing ---

const AXIS = 26;
const MARK_FROM = 10;
const RANKS = ["dead", "done", "running", "pending", "delay", "killed", "gap", "dead_failed", "failed"];

const STEPS = [];
for (let unit = 1; unit < 1e6; unit *= 10) STEPS.push(unit, 2 * unit, 5 * unit);
for (const seconds of [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800, 1209600, 2592000, 7776000, 31536000]) STEPS.push(seconds * 1e6);

/** Return the ticks between two times: the times, and the texts. */
const ticksOf = (model, from, to, most) => {
  const step = STEPS.find((one) => (to - from) / one <= most) || STEPS.at(-1) * Math.ceil((to - from) / STEPS.at(-1) / most);
  const originUs = model.origin / 1000n, offset = Number(originUs % BigInt(step));
  const ticks = [];
  for (let us = Math.ceil((from + offset) / step) * step - offset; us <= to; us += step) {
    const full = timeText(model, us, 6);
    let text = full.slice(11, 19);
    if (step >= 86400e6) text = full.slice(0, 10);
    else if (step >= 60e6) text = full.slice(11, 16);
    else if (step < 1e3) text = full.slice(17, 26);
    else if (step < 1e6) text = full.slice(14, 23);
    ticks.push([us, text]);
  }
  return ticks;
};

const canvasContext = (canvas, width, height) => {
  const ratio = window.devicePixelRatio || 1;
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== h) {
    canvas.width = w;
    canvas.height = h;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return context;
};

/** Draw a mark around a point. */
const drawMark = (context, shape, x, y, size, ink, ground) => {
  const half = size / 2;
  context.beginPath();
  if (shape === "triangle") { context.moveTo(x, y - half); context.lineTo(x + half, y + half); context.lineTo(x - half, y + half); context.closePath(); }
  else if (shape === "diamond") { context.moveTo(x, y - half); context.lineTo(x + half, y); context.lineTo(x, y + half); context.lineTo(x - half, y); context.closePath(); }
  else if (shape === "square") context.rect(x - half + 0.5, y - half + 0.5, size - 1, size - 1);
  else if (shape === "ring") context.arc(x, y, half, 0, 7);
  else if (shape === "flag") { context.moveTo(x, y + half); context.lineTo(x, y - half); context.lineTo(x + size * 0.8, y - half / 3); context.lineTo(x, y + half / 4); }
  else if (shape === "cross") { context.moveTo(x - half, y - half); context.lineTo(x + half, y + half); context.moveTo(x + half, y - half); context.lineTo(x - half, y + half); }
  else context.arc(x, y, 1.3, 0, 7);
  if (shape === "cross") {
    context.lineWidth = 4.5; context.strokeStyle = ground; context.stroke();
    context.lineWidth = 2; context.strokeStyle = ink; context.stroke();
    return;
  }
  if (shape !== "dot") { context.lineWidth = 2.5; context.strokeStyle = ground; context.stroke(); }
  context.fillStyle = shape === "ring" ? ground : ink;
  context.fill();
  if (shape === "ring") { context.lineWidth = 2; context.strokeStyle = ink; context.stroke(); }
};

const hatchOf = (context, ink, ground) => {
  const tile = document.createElement("canvas");
  tile.width = tile.height = 8;
  const inner = tile.getContext("2d");
  inner.fillStyle = ground;
  inner.fillRect(0, 0, 8, 8);
  inner.strokeStyle = ink;
  inner.lineWidth = 1.6;
  for (const shift of [-8, 0, 8]) { inner.moveTo(shift - 1, 9); inner.lineTo(shift + 9, -1); }
  inner.stroke();
  return context.createPattern(tile, "repeat");
};

/** The bar of a kind, as [distance from the top, height], both as parts of the lane. */
const barOf = (name) => {
  if (name === "dead") return [0.44, 0.12];
  if (name === "dead_failed") return [0.4, 0.2];
  if (name === "pending") return [0.32, 0.36];
  if (name === "delay") return [0.32, 0.36];
  return [0.12, 0.76];
};

class Chart {
  constructor(model, scroller, onChange) {
    this.model = model;
    this.scroller = scroller;
    this.canvas = scroller.querySelector("canvas");
    this.sizer = scroller.firstElementChild;
    this.onChange = onChange;
    this.from = 0;
    this.to = model.span;
    this.rows = [];
    this.laneHeight = 22;
    this.group = "job";
    this.cursor = model.span;
    this.focusRow = -1;
    this.selected = null;
    this.hover = null;
    this.brush = null;
    this.isAsked = false;
    this.labels = new Map();
    this.pictures = new Map();
    this.font = getComputedStyle(document.body).fontFamily;
    this.frames = 0;
    this.paperHeight = 0;
    this.top = 0;
  }

  get labelWidth() { return Math.min(250, Math.round(this.width * 0.3)); }
  get plotWidth() { return Math.max(this.width - this.labelWidth - 8, 10); }
  get rowCount() { return this.rows.length; }
  x(us) { return this.labelWidth + (us - this.from) / (this.to - this.from) * this.plotWidth; }
  us(x) { return this.from + (x - this.labelWidth) / this.plotWidth * (this.to - this.from); }
  rowY(row) { return Math.round(AXIS + row * this.laneHeight - this.top); }
  rowAt(y) {
    const row = Math.floor((y - AXIS + this.scroller.scrollTop) / this.laneHeight);
    return y >= AXIS && row >= 0 && row < this.rowCount ? row : -1;
  }

  theme(isDark) {
    const style = getComputedStyle(document.documentElement);
    const value = (name) => style.getPropertyValue(name).trim();
    this.colours = this.model.kinds.map((kind) => (isDark ? kind.dark : kind.light));
    this.ink = value("--text");
    this.faint = value("--faint");
    this.line = value("--line");
    this.ground = value("--ground");
    this.raised = value("--raised");
    this.stripe = value("--stripe");
    this.accent = value("--accent");
    this.selectColour = value("--select");
    this.pattern = null;
    this.pictures.clear();
    this.ask();
  }

  setRows(rows) {
    this.rows = rows;
    this.sizer.style.height = `${AXIS + rows.length * this.laneHeight + 4}px`;
    this.ask();
  }

  setRange(from, to) {
    const { span } = this.model, margin = span * 0.02 + 1;
    const width = Math.min(Math.max(to - from, 20), span + 2 * margin);
    const first = Math.min(Math.max(from, -margin), span + margin - width);
    this.from = first;
    this.to = first + width;
    this.ask();
    this.onChange();
  }

  fit() { this.setRange(-this.model.span * 0.01, this.model.span * 1.01); }
  zoom(factor, us) { this.setRange(us - (us - this.from) * factor, us + (this.to - us) * factor); }
  pan(pixels) { const shift = pixels / this.plotWidth * (this.to - this.from); this.setRange(this.from + shift, this.to + shift); }

  ask() {
    if (this.isAsked) return;
    this.isAsked = true;
    requestAnimationFrame(() => { this.isAsked = false; this.draw(); });
  }

  label(context, text, width) {
    const key = `${width}\0${text.length > 200 ? text.slice(0, 200) : text}`;
    let short = this.labels.get(key);
    if (short === undefined) {
      short = text.length > 120 ? `${text.slice(0, 120)}…` : text;
      if (context.measureText(short).width > width) {
        let low = 0, high = short.length;
        while (low < high) {
          const middle = (low + high + 1) >> 1;
          if (context.measureText(`${short.slice(0, middle)}…`).width <= width) low = middle; else high = middle - 1;
        }
        short = `${short.slice(0, low)}…`;
      }
      if (this.labels.size > 20000) this.labels.clear();
      this.labels.set(key, short);
    }
    return short;
  }

  draw() {
    const fullHeight = this.paperHeight;
    this.frames += 1;
    this.width = this.scroller.clientWidth;
    const height = fullHeight || this.scroller.clientHeight;
    const context = canvasContext(this.canvas, this.width, height);
    this.pattern ||= hatchOf(context, this.ink, this.ground);
    const { laneHeight: tall, labelWidth, width } = this;
    this.top = fullHeight ? 0 : this.scroller.scrollTop;
    const first = Math.floor(this.top / tall);
    const last = Math.min(this.rowCount, first + Math.ceil((height - AXIS) / tall) + 1);
    context.fillStyle = this.ground;
    context.fillRect(0, 0, width, height);
    const ticks = ticksOf(this.model, this.from, this.to, Math.max(this.plotWidth / 95, 2));
    this.drawRowGrounds(context, first, last);
    context.fillStyle = this.line;
    for (const [us] of ticks) context.fillRect(Math.round(this.x(us)), AXIS, 1, height);
    context.save();
    context.beginPath();
    context.rect(labelWidth, AXIS, width - labelWidth, height - AXIS);
    context.clip();
    this.drawIntervals(context, first, last);
    if (tall >= MARK_FROM) this.drawMarks(context, first, last);
    context.restore();
    this.drawLabels(context, first, last, height);
    this.drawAxis(context, ticks, height);
    if (this.brush) {
      context.fillStyle = this.accent;
      context.globalAlpha = 0.22;
      const [one, other] = this.brush;
      context.fillRect(Math.min(one, other), 0, Math.abs(other - one), height);
      context.globalAlpha = 1;
    }
  }

  drawRowGrounds(context, first, last) {
    for (let row = first; row < last; row += 1) {
      const isGroup = this.rows[row].group !== undefined;
      const isSelected = this.selected && this.rows[row].lane === this.selected.lane;
      const colour = isSelected ? this.selectColour : isGroup ? this.raised : row === this.hover?.row ? this.stripe : null;
      if (colour) {
        context.fillStyle = colour;
        context.fillRect(0, this.rowY(row), this.width, this.laneHeight);
      }
    }
  }

  drawIntervals(context, first, last) {
    const { model, from, to, laneHeight: tall } = this;
    const { start, end, kind, intervalsOf } = model;
    const scale = this.plotWidth / (to - from), left = this.labelWidth;
    const rectangles = model.kinds.map(() => []);
    for (let row = first; row < last; row += 1) {
      const { lane } = this.rows[row];
      if (lane === undefined) continue;
      const y = this.rowY(row), stop = intervalsOf[lane + 1];
      let seen = -1, best = -1;
      for (let at = firstAbove(end, from, intervalsOf[lane], stop); at < stop && start[at] < to; at += 1) {
        const one = kind[at];
        // Whole pixels are drawn faster, and sharp.
        const x = Math.round(Math.max(left + (start[at] - from) * scale, left - 2));
        const right = Math.round(Math.min(left + (end[at] - from) * scale, this.width + 2));
        if (right - x < 1) {
          // Of several in one pixel the worst is drawn.
          const rank = this.ranks[one];
          if (x === seen && rank <= best) continue;
          best = x === seen ? Math.max(best, rank) : rank;
          seen = x;
          rectangles[one].push(x, y, 1);
        } else rectangles[one].push(x, y, right - x);
      }
    }
    for (const one of this.order) {
      const list = rectangles[one], { name } = model.kinds[one];
      if (!list.length) continue;
      const [top, part] = barOf(name);
      const dy = Math.round(top * tall), dh = Math.max(Math.round(part * tall), 1);
      context.fillStyle = name === "gap" ? this.pattern : this.colours[one];
      // Two runs beside each other have a line between them.
      const space = tall > 8 ? 1 : 0;
      for (let at = 0; at < list.length; at += 3) context.fillRect(list[at], list[at + 1] + dy, list[at + 2] - (list[at + 2] > 4 ? space : 0), dh);
      if (name === "failed" && tall >= MARK_FROM) {
        // A failure has a dark cap, so that its colour is not all that tells it.
        context.fillStyle = this.ink;
        for (let at = 0; at < list.length; at += 3) if (list[at + 2] > 5) context.fillRect(list[at] + list[at + 2] - 3, list[at + 1] + dy, 2, dh);
      }
      if (name === "gap" && tall >= MARK_FROM) {
        context.strokeStyle = this.ink;
        context.lineWidth = 1;
        for (let at = 0; at < list.length; at += 3) if (list[at + 2] > 3) context.strokeRect(list[at] + 0.5, list[at + 1] + dy + 0.5, list[at + 2] - 1, dh - 1);
      }
    }
  }

  get order() {
    this.orderOfKinds ||= RANKS.map((name) => this.model.kinds.findIndex((kind) => kind.name === name));
    return this.orderOfKinds;
  }

  get ranks() {
    this.ranksOfKinds ||= this.model.kinds.map((kind) => RANKS.indexOf(kind.name));
    return this.ranksOfKinds;
  }

  drawMarks(context, first, last) {
    const { model, from, to, laneHeight: tall } = this;
    const size = tall >= 20 ? 9 : 7;
    for (let row = first; row < last; row += 1) {
      const { lane } = this.rows[row];
      if (lane === undefined) continue;
      const alloc = model.allocOf[lane], y = this.rowY(row) + tall / 2;
      this.drawRun(context, model.eventsFrom[lane], model.eventCount[lane], from, to, y, size, false);
      this.drawRun(context, model.ownFrom[alloc], model.ownCount[alloc], from, to, y, size, true);
    }
  }

  drawRun(context, begin, count, from, to, y, size, isOwn) {
    const { model } = this;
    let seen = -1e9, dots = -1e9;
    for (let at = firstAbove(model.time, from - 1, begin, begin + count); at < begin + count && model.time[at] <= to; at += 1) {
      const { name, shape } = model.marks[model.mark[at]];
      const x = this.x(model.time[at]);
      if (name === "gap" || (isOwn && name !== "desired")) continue;
      if (name === "event") {
        if (this.laneHeight < 20 || x - Math.max(seen, dots) < size) continue;
        dots = x;
      } else {
        if (x - seen < size * 0.8) continue;
        seen = x;
      }
      this.stamp(context, shape, x, y, size);
    }
  }

  /** Draw a mark from a picture of it, which takes a tenth of the time of its path. */
  stamp(context, shape, x, y, size) {
    const ratio = window.devicePixelRatio || 1, room = size * 2;
    const key = `${shape} ${size} ${ratio}`;
    let picture = this.pictures.get(key);
    if (!picture) {
      picture = document.createElement("canvas");
      picture.width = picture.height = Math.ceil(room * ratio);
      const inner = picture.getContext("2d");
      inner.scale(ratio, ratio);
      drawMark(inner, shape, size, size, size, this.ink, this.ground);
      this.pictures.set(key, picture);
    }
    context.drawImage(picture, Math.round((x - size) * ratio) / ratio, Math.round((y - size) * ratio) / ratio, room, room);
  }

  drawLabels(context, first, last, height) {
    const { model, labelWidth, laneHeight: tall } = this;
    context.fillStyle = this.ground;
    context.fillRect(0, AXIS, labelWidth - 4, height);
    context.textBaseline = "middle";
    const size = Math.min(12, tall - 2);
    for (let row = first; row < last; row += 1) {
      const one = this.rows[row], y = this.rowY(row);
      const isGroup = one.group !== undefined;
      if (isGroup || (this.selected && one.lane === this.selected.lane)) {
        context.fillStyle = isGroup ? this.raised : this.selectColour;
        context.fillRect(0, y, labelWidth - 4, tall);
      }
      if (size < 8) continue;
      context.font = `${isGroup ? 600 : 400} ${size}px ${this.font}`;
      if (isGroup) {
        context.fillStyle = this.ink;
        const mark = this.closed.has(one.group) ? "▸" : "▾";
        context.fillText(`${mark} ${this.label(context, groupTitle(model, this.group, one), labelWidth - 30)}`, 8, y + tall / 2);
        continue;
      }
      const alloc = model.allocOf[one.lane], indent = this.group === "none" ? 8 : 20;
      const id = this.group === "alloc" ? "" : this.label(context, shortId(model.id[alloc]), 64);
      context.fillStyle = this.faint;
      if (id) context.fillText(id, indent, y + tall / 2);
      const left = id ? indent + 68 : indent;
      context.fillStyle = this.ink;
      context.fillText(this.label(context, model.texts[model.taskOf[one.lane]], labelWidth - left - 12), left, y + tall / 2);
    }
    context.fillStyle = this.line;
    context.fillRect(labelWidth - 4, 0, 1, height);
    if (this.focusRow >= first && this.focusRow < last && document.activeElement === this.scroller) {
      context.strokeStyle = this.accent;
      context.lineWidth = 2;
      context.strokeRect(1, this.rowY(this.focusRow) + 1, this.width - 2, tall - 2);
    }
  }

  drawAxis(context, ticks, height) {
    const { labelWidth } = this;
    context.fillStyle = this.raised;
    context.fillRect(0, 0, this.width, AXIS);
    context.fillStyle = this.line;
    context.fillRect(0, AXIS - 1, this.width, 1);
    context.font = `11px ${this.font}`;
    context.textBaseline = "middle";
    context.fillStyle = this.faint;
    for (const [us, text] of ticks) {
      const x = this.x(us);
      if (x >= labelWidth - 2) {
        if (x + 4 + context.measureText(text).width <= this.width) context.fillText(text, x + 4, AXIS / 2);
        context.fillRect(Math.round(x), 0, 1, AXIS);
      }
    }
    context.fillStyle = this.raised;
    context.fillRect(0, 0, labelWidth - 4, AXIS - 1);
    context.fillStyle = this.faint;
    context.fillText(this.label(context, `${timeText(this.model, Math.max(this.from, 0)).slice(0, 10)} UTC`, labelWidth - 16), 8, AXIS / 2);
    const line = (us, colour, dashes) => {
      const x = Math.round(this.x(us)) + 0.5;
      if (x < labelWidth || x > this.width) return;
      context.strokeStyle = colour;
      context.setLineDash(dashes);
      context.lineWidth = 1.5;
      context.beginPath();
      context.moveTo(x, 0);
      context.lineTo(x, height);
      context.stroke();
      context.setLineDash([]);
    };
    if (this.hover) line(this.hover.us, this.faint, [3, 3]);
    line(this.cursor, this.accent, []);
  }

  /** Return what is at a point of the canvas: its row, lane, time, interval and event. */
  hit(x, y) {
    const row = this.rowAt(y), us = this.us(x), { model } = this;
    if (row < 0 || this.rows[row].lane === undefined) return { row, us };
    const { lane } = this.rows[row];
    if (x < this.labelWidth) return { row, us, lane };
    const interval = this.intervalAt(lane, us);
    let event = -1, distance = 6;
    const near = (begin, count, isOwn) => {
      const reach = 6 * (this.to - this.from) / this.plotWidth;
      for (let at = firstAbove(model.time, us - reach, begin, begin + count); at < begin + count && model.time[at] <= us + reach; at += 1) {
        if (isOwn && model.marks[model.mark[at]].name !== "desired") continue;
        const far = Math.abs(this.x(model.time[at]) - x) - (model.mark[at] ? 0.5 : 0);
        if (far < distance) { distance = far; event = at; }
      }
    };
    near(model.eventsFrom[lane], model.eventCount[lane], false);
    near(model.ownFrom[model.allocOf[lane]], model.ownCount[model.allocOf[lane]], true);
    return { row, us, lane, interval, event };
  }

  intervalAt(lane, us) {
    const { start, end, intervalsOf } = this.model;
    const at = firstAbove(end, us, intervalsOf[lane], intervalsOf[lane + 1]);
    if (at < intervalsOf[lane + 1]) return start[at] <= us ? at : -1;
    return at > intervalsOf[lane] && us === end[at - 1] ? at - 1 : -1;
  }

  /** Return the newest event of a lane at a time; -1 where there is none yet. */
  eventAt(lane, us) {
    const begin = this.model.eventsFrom[lane];
    return Math.max(firstAbove(this.model.time, us, begin, begin + this.model.eventCount[lane]) - 1, begin - 1) < begin
      ? -1 : firstAbove(this.model.time, us, begin, begin + this.model.eventCount[lane]) - 1;
  }

  show(row) {
    const top = row * this.laneHeight, { scroller } = this;
    const room = scroller.clientHeight - AXIS;
    if (top < scroller.scrollTop) scroller.scrollTop = top;
    else if (top + this.laneHeight > scroller.scrollTop + room) scroller.scrollTop = top + this.laneHeight - room;
  }
}

// --- the page ---

const model = modelOf(JSON.parse(byId("data").textContent));
const choice = { text: "", job: "", node: "", status: "", group: "job", sort: "start", closed: new Set() };
const chart = new Chart(model, byId("chart"), () => { askOverview(); });
chart.closed = choice.closed;
let shown = { rows: [], lanes: [] };

const wordsOf = (lane, interval, event, us) => {
  const alloc = model.allocOf[lane];
  const lines = [`${model.texts[model.taskOf[lane]]} of ${model.text("job", alloc) || "no job"} ${shortId(model.id[alloc])}`];
  if (interval >= 0) {
    const [start, end] = [model.start[interval], model.end[interval]];
    lines.push(`${model.kinds[model.kind[interval]].words}, ${durationText(end - start)}`);
    lines.push(`${timeText(model, start)} – ${timeText(model, end).slice(11)}`);
  } else if (us !== undefined) lines.push(timeText(model, us));
  if (event >= 0) lines.push(`${model.texts[model.type[event]]}: ${model.texts[model.message[event]]}`, `${timeText(model, model.time[event], 6)}, index ${model.index[event]}`);
  return lines;
};

const say = (text) => { byId("status-line").textContent = text; };

// tooltip

const tip = byId("tip");
const showTip = (hit, clientX, clientY) => {
  if (hit?.lane === undefined && hit?.row >= 0) {
    tip.replaceChildren(element("div", "", groupTitle(model, choice.group, chart.rows[hit.row])));
  } else if (hit?.lane === undefined || (hit.interval === undefined && hit.event === undefined)) {
    if (hit?.lane === undefined) { tip.hidden = true; return; }
    const alloc = model.allocOf[hit.lane];
    tip.replaceChildren(...wordsOf(hit.lane, -1, -1).map((line) => element("div", "", line.slice(0, 600))),
      element("div", "faint", `${model.id[alloc]}, ${countText(model.restarts[hit.lane], "restart")}`));
  } else {
    tip.replaceChildren(...wordsOf(hit.lane, hit.interval, hit.event, hit.us).map((line, at) => element("div", at === 2 || at === 4 ? "faint" : "", line.slice(0, 600))));
  }
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(clientX + 14, window.innerWidth - width - 8))}px`;
  tip.style.top = `${clientY + 18 + height > window.innerHeight ? Math.max(4, clientY - height - 10) : clientY + 18}px`;
};

// overview

const overview = byId("overview"), overviewCanvas = overview.firstElementChild;
let overviewBrush = null, density = null, backdrop = null;

const densityOf = (width) => {
  const { start, end, kind, intervalsOf, kinds, span } = model;
  const running = new Int32Array(width + 1), waiting = new Int32Array(width + 1), lost = new Int32Array(width + 1), failures = new Int32Array(width + 1);
  const scale = width / span;
  for (const lane of shown.lanes) {
    for (let at = intervalsOf[lane]; at < intervalsOf[lane + 1]; at += 1) {
      const { name, state } = kinds[kind[at]];
      // A column counts the tasks at its middle, so that no task is counted twice.
      const first = Math.max(Math.ceil(start[at] * scale - 0.5), 0), last = end[at] >= span ? width : Math.ceil(end[at] * scale - 0.5);
      const into = state === "running" ? running : state === "pending" ? waiting : name === "gap" ? lost : null;
      if (into) { into[first] += 1; into[last] -= 1; }
      if (name === "failed") failures[Math.min(Math.floor(end[at] * scale), width - 1)] += 1;
    }
  }
  for (const column of [running, waiting, lost]) for (let at = 1; at <= width; at += 1) column[at] += column[at - 1];
  return { width, running, waiting, lost, failures };
};

const overviewX = (us) => chart.labelWidth + us / model.span * chart.plotWidth;
const overviewUs = (x) => (x - chart.labelWidth) / chart.plotWidth * model.span;

/** Draw what the overview shows of the tasks: it changes with filters, size and colours only. */
const drawBackdrop = (width, height, columns) => {
  const canvas = document.createElement("canvas"), context = canvasContext(canvas, width, height);
  const { running, waiting, lost, failures } = density, left = chart.labelWidth;
  let most = 1, worst = 1;
  for (let at = 0; at < columns; at += 1) {
    most = Math.max(most, running[at] + waiting[at] + lost[at]);
    worst = Math.max(worst, failures[at]);
  }
  context.fillStyle = chart.ground;
  context.fillRect(0, 0, width, height);
  const base = height - 10, room = base - 4;
  const colour = (name) => chart.colours[model.kinds.findIndex((kind) => kind.name === name)];
  for (let at = 0; at < columns; at += 1) {
    let top = base;
    for (const [column, name] of [[running, "running"], [waiting, "pending"], [lost, "gap"]]) {
      if (!column[at]) continue;
      const tall = Math.max(column[at] / most * room, 1);
      context.fillStyle = colour(name);
      context.fillRect(left + at, top - tall, 1, tall);
      top -= tall;
    }
    if (failures[at]) {
      context.fillStyle = colour("failed");
      context.fillRect(left + at, base + 1, 1.5, 2 + failures[at] / worst * 6);
    }
  }
  context.fillStyle = chart.line;
  context.fillRect(left, base, chart.plotWidth, 1);
  context.font = `11px ${chart.font}`;
  context.textBaseline = "middle";
  context.fillStyle = chart.faint;
  context.fillText(chart.label(context, `${countText(most, "task")} at most`, left - 20), 12, 14);
  context.fillText(chart.label(context, "failures", left - 20), 12, base + 3);
  return { canvas, width, height };
};

const drawOverview = () => {
  const width = overview.clientWidth, height = overview.clientHeight;
  chart.width = byId("chart").clientWidth;
  const context = canvasContext(overviewCanvas, width, height);
  const columns = Math.max(Math.floor(chart.plotWidth), 10), left = chart.labelWidth;
  if (!density || density.width !== columns) { density = densityOf(columns); backdrop = null; }
  if (!backdrop || backdrop.width !== width || backdrop.height !== height) backdrop = drawBackdrop(width, height, columns);
  context.drawImage(backdrop.canvas, 0, 0, width, height);
  const [one, other] = overviewBrush || [overviewX(chart.from), overviewX(chart.to)];
  const from = Math.max(Math.min(one, other), left), to = Math.min(Math.max(one, other), left + chart.plotWidth);
  context.fillStyle = chart.ground;
  context.globalAlpha = 0.66;
  context.fillRect(left, 0, from - left, height);
  context.fillRect(to, 0, left + chart.plotWidth - to, height);
  context.globalAlpha = 1;
  context.strokeStyle = chart.accent;
  context.lineWidth = 1.5;
  context.strokeRect(from + 0.75, 0.75, Math.max(to - from - 1.5, 2), height - 1.5);
  context.fillStyle = chart.accent;
  context.fillRect(Math.round(overviewX(chart.cursor)), 0, 1.5, height);
};

let overviewAsked = false;
const askOverview = () => {
  if (overviewAsked) return;
  overviewAsked = true;
  requestAnimationFrame(() => { overviewAsked = false; drawOverview(); });
};

// the table at the cursor

const COLUMNS = ["Task", "Allocation", "Job", "Node", "State", "For", "Restarts", "Newest event"];
byId("rows").querySelector("thead tr").append(...COLUMNS.map((name) => { const cell = element("th", "", name); cell.scope = "col"; return cell; }));
const ROW = 24;

const RUNNING = model.kinds.findIndex((kind) => kind.name === "running");
const stateAt = (lane, us) => {
  const interval = chart.intervalAt(lane, us);
  if (interval >= 0) {
    const kind = model.kinds[model.kind[interval]];
    const isOver = us >= model.end[interval] && interval + 1 === model.intervalsOf[lane + 1];
    // How a run will end is not known while it lasts.
    const lasts = kind.state === "running" && !isOver;
    return { words: lasts ? "running" : kind.words, since: us - model.start[interval], kind: lasts ? RUNNING : model.kind[interval] };
  }
  return { words: "not yet placed", since: -1, kind: -1 };
};

const restartsAt = (lane, us) => {
  let count = 0;
  const begin = model.eventsFrom[lane], stop = begin + model.eventCount[lane];
  for (let at = begin; at < stop && model.time[at] <= us; at += 1) if (model.marks[model.mark[at]].name === "restart") count += 1;
  return count;
};

const drawTable = () => {
  const scroller = byId("rows"), body = scroller.querySelector("tbody"), { lanes } = shown;
  const first = Math.max(Math.floor(scroller.scrollTop / ROW) - 2, 0);
  const last = Math.min(first + Math.ceil(scroller.clientHeight / ROW) + 5, lanes.length);
  const space = (rows) => {
    const row = element("tr", "space", element("td"));
    row.setAttribute("aria-hidden", "true");
    row.firstChild.colSpan = COLUMNS.length;
    row.firstChild.style.height = `${rows * ROW}px`;
    return row;
  };
  const rows = [];
  for (let at = first; at < last; at += 1) {
    const lane = lanes[at], alloc = model.allocOf[lane], event = chart.eventAt(lane, chart.cursor);
    const { words, since, kind } = stateAt(lane, chart.cursor);
    const open = element("button", "", model.texts[model.taskOf[lane]].slice(0, 300));
    open.type = "button";
    open.addEventListener("click", () => select(lane, event));
    const chip = element("span", "chip");
    if (kind >= 0) chip.style.background = chart.colours[kind];
    const cells = [open, shortId(model.id[alloc]).slice(0, 300), model.text("job", alloc).slice(0, 300), model.text("node_name", alloc) || shortId(model.text("node", alloc)),
      [chip, words], since < 0 ? "" : durationText(since), String(restartsAt(lane, chart.cursor)),
      event < 0 ? "" : `${model.texts[model.type[event]]}: ${model.texts[model.message[event]]}`.slice(0, 300)];
    const row = element("tr", "", ...cells.map((cell) => element("td", "", ...[cell].flat())));
    row.setAttribute("aria-rowindex", String(at + 2));
    rows.push(row);
  }
  const table = scroller.querySelector("table");
  table.setAttribute("aria-rowcount", String(lanes.length + 1));
  body.replaceChildren(...(first ? [space(first)] : []), ...rows, ...(last < lanes.length ? [space(lanes.length - last)] : []));
  byId("then-title").textContent = `${countText(lanes.length, "task")} as of ${timeText(model, Math.max(chart.cursor, 0))} UTC`;
};

let tableAsked = false;
const askTable = () => {
  if (tableAsked) return;
  tableAsked = true;
  requestAnimationFrame(() => { tableAsked = false; drawTable(); });
};

const setCursor = (us) => {
  chart.cursor = Math.min(Math.max(us, 0), model.span);
  const scrub = byId("scrub"), text = timeText(model, chart.cursor);
  scrub.value = String(chart.cursor / model.span * 1000);
  scrub.setAttribute("aria-valuetext", `${text} UTC`);
  byId("now").textContent = `${text} UTC`;
  chart.ask();
  askOverview();
  askTable();
};

// the details of an allocation

const HISTORY = 400;

const eventsOf = (lane) => {
  const alloc = model.allocOf[lane], list = [];
  for (let at = model.ownFrom[alloc]; at < model.ownFrom[alloc] + model.ownCount[alloc]; at += 1) list.push(at);
  for (let at = model.eventsFrom[lane]; at < model.eventsFrom[lane] + model.eventCount[lane]; at += 1) list.push(at);
  return list.sort((one, other) => model.version[one] - model.version[other]);
};

const commandOf = (alloc, index) => {
  const quote = (text) => (/^[\w./:@-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
  return `taskfold replay ${quote(model.data.title || "SOURCE")} --at ${index} --alloc ${quote(model.id[alloc])} --format json`;
};

const select = (lane, event = -1) => {
  const alloc = model.allocOf[lane], list = eventsOf(lane);
  const chosen = event >= 0 ? event : (chart.eventAt(lane, chart.cursor) >= 0 ? chart.eventAt(lane, chart.cursor) : list[0] ?? -1);
  chart.selected = { lane, event: chosen };
  const panel = byId("details"), wasHidden = panel.hidden;
  const close = element("button", "", "Close");
  close.type = "button";
  close.id = "details-close";
  close.addEventListener("click", deselect);
  const head = element("header", "", element("h2", "", `${model.texts[model.taskOf[lane]]} of ${model.id[alloc]}`), close);
  const facts = element("dl");
  const fact = (name, value) => { if (value) facts.append(element("dt", "", name), element("dd", "", value)); };
  fact("Job", [model.text("job", alloc), model.text("group", alloc)].filter(Boolean).join(" / "));
  fact("Namespace", model.text("namespace", alloc));
  fact("Node", [model.text("node_name", alloc), model.text("node", alloc)].filter(Boolean).join(" "));
  fact("Status at the end", `${model.text("status", alloc)}, desired: ${model.text("desired", alloc) || "unknown"}`);
  fact("Why it died", model.texts[model.data.lanes.reason[lane]]);
  fact("Restarts", String(model.restarts[lane]));
  fact("Pending in all", durationText(model.pending[lane]));
  const table = element("table"), headRow = element("tr");
  for (const name of ["Time (UTC)", "Index", "Event"]) { const cell = element("th", "", name); cell.scope = "col"; headRow.append(cell); }
  table.append(element("thead", "", headRow));
  const body = element("tbody");
  const place = Math.max(list.indexOf(chosen), 0);
  const first = Math.max(0, Math.min(place - HISTORY / 2, list.length - HISTORY)), last = Math.min(first + HISTORY, list.length);
  for (const at of list.slice(first, last)) {
    const open = element("button", "", timeText(model, model.time[at], 6).slice(model.span < 36e8 ? 11 : 5));
    open.type = "button";
    open.addEventListener("click", () => { select(lane, at); setCursor(model.time[at]); byId("details").querySelector('tr[aria-current="true"] button').focus(); });
    const message = element("div", "", element("b", "", model.texts[model.type[at]]), ` ${model.texts[model.message[at]]}`);
    const row = element("tr", "", element("td", "fixed", open), element("td", "fixed", String(model.index[at])), element("td", "", message));
    if (at === chosen) row.setAttribute("aria-current", "true");
    body.append(row);
  }
  table.append(body);
  const history = element("div", "history", table);
  history.tabIndex = 0;
  history.setAttribute("role", "region");
  history.setAttribute("aria-label", "History");
  const parts = [head, facts, element("h3", "", `History, ${countText(list.length, "record")}${last - first < list.length ? `: ${first + 1} to ${last}, click one for those around it` : ""}`), history];
  if (chosen >= 0) {
    const index = model.index[chosen], text = bodyAt(model, alloc, index);
    parts.push(element("h3", "", `JSON at index ${index}`));
    if (text === null) {
      parts.push(element("p", "", "This file does not carry it, to stay small. This command prints it:"), element("pre", "", commandOf(alloc, index)));
    } else parts.push(element("pre", "", text));
    const pre = parts.at(-1);
    pre.tabIndex = 0;
    pre.setAttribute("role", "region");
    pre.setAttribute("aria-label", text === null ? "The command" : `JSON at index ${index}`);
  }
  const { scrollTop } = panel;
  panel.replaceChildren(...parts);
  panel.hidden = false;
  if (wasHidden) resize(); else panel.scrollTop = scrollTop;
  body.querySelector('[aria-current="true"]')?.scrollIntoView({ block: "nearest" });
  chart.ask();
  say(`Opened ${model.texts[model.taskOf[lane]].slice(0, 200)} of ${model.id[alloc].slice(0, 200)}`);
};

const deselect = () => {
  const wasShown = !byId("details").hidden;
  byId("details").hidden = true;
  byId("details").replaceChildren();
  chart.selected = null;
  if (wasShown) { resize(); byId("chart").focus(); }
};

// filters

const update = () => {
  shown = rowsOf(model, choice);
  density = null;
  chart.group = choice.group;
  chart.focusRow = Math.min(chart.focusRow, shown.rows.length - 1);
  chart.setRows(shown.rows);
  drawOverview();
  askTable();
  const allocs = new Set(shown.lanes.map((lane) => model.allocOf[lane])).size;
  const all = shown.lanes.length === model.laneCount ? "" : ` of ${model.laneCount.toLocaleString("en")}`;
  const period = `${timeText(model, 0).slice(0, 19)} to ${timeText(model, model.span).slice(model.span < 864e8 ? 11 : 0, 19)} UTC`;
  byId("summary").textContent = `${countText(shown.lanes.length, "task")}${all} in ${countText(allocs, "allocation")}, ${period}, Nomad ${model.data.dialect}`;
};

const fill = (id, column, words) => {
  const list = byId(id), counts = new Map();
  for (let lane = 0; lane < model.laneCount; lane += 1) {
    const value = model.number(column, model.allocOf[lane]);
    counts.set(value, (counts.get(value) || 0) + 1);
  }
  const label = (value) => words(value) || "none";
  const entries = [...counts].map(([value, count]) => [value, label(value), count]).sort((one, other) => (one[1] < other[1] ? -1 : 1));
  const add = (value, text) => { const option = element("option", "", text); option.value = value; list.append(option); };
  add("", "all");
  for (const [value, text, count] of entries.slice(0, 2000)) add(String(value), `${text.slice(0, 80)} (${count})`);
  if (entries.length > 2000) { add("", `… ${entries.length - 2000} more: use the text filter`); list.lastChild.disabled = true; }
  list.addEventListener("change", () => { choice[id] = list.value; update(); });
};

const nodeNames = new Map();
for (let alloc = 0; alloc < model.allocCount; alloc += 1) nodeNames.set(model.number("node", alloc), model.text("node_name", alloc));
fill("job", "job", (value) => model.texts[value]);
fill("node", "node", (value) => nodeNames.get(value) || shortId(model.texts[value]));
fill("status", "status", (value) => model.texts[value]);
let typing = 0;
byId("text").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(() => { choice.text = byId("text").value; update(); }, 80); });
for (const id of ["group", "sort"]) byId(id).addEventListener("change", () => { choice[id] = byId(id).value; choice.closed.clear(); update(); });
byId("height").addEventListener("change", () => { chart.laneHeight = Number(byId("height").value); update(); });
byId("fit").addEventListener("click", () => chart.fit());
byId("filters").addEventListener("submit", (event) => event.preventDefault());
byId("scrub").addEventListener("input", () => setCursor(Number(byId("scrub").value) / 1000 * model.span));
byId("rows").addEventListener("scroll", askTable);

// the pointer

const area = byId("chart");
const point = (event) => { const box = area.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
let drag = null;

area.addEventListener("pointerdown", (event) => {
  if (event.button) return;
  const [x, y] = point(event);
  if (x > area.clientWidth) return;
  drag = { x, y, lastX: x, top: area.scrollTop, isBrush: event.shiftKey || y < AXIS, moved: false };
  area.setPointerCapture(event.pointerId);
});

area.addEventListener("pointermove", (event) => {
  const [x, y] = point(event);
  if (drag) {
    drag.moved ||= Math.hypot(x - drag.x, y - drag.y) > 3;
    if (drag.moved) {
      tip.hidden = true;
      if (drag.isBrush) { chart.brush = [drag.x, x]; chart.ask(); }
      else {
        chart.pan(drag.lastX - x);
        area.scrollTop = drag.top + drag.y - y;
      }
    }
    drag.lastX = x;
    return;
  }
  chart.hover = { ...chart.hit(x, y) };
  if (x < chart.labelWidth) chart.hover.us = NaN;
  showTip(y < AXIS ? null : chart.hit(x, y), event.clientX, event.clientY);
  chart.ask();
});

area.addEventListener("pointerup", (event) => {
  if (!drag) return;
  const [x, y] = point(event), { moved, isBrush } = drag;
  const [one, other] = [chart.us(drag.x), chart.us(x)];
  drag = null;
  chart.brush = null;
  if (moved) {
    if (isBrush && Math.abs(other - one) > 0) chart.setRange(Math.min(one, other), Math.max(one, other));
    chart.ask();
    return;
  }
  if (y < AXIS) { if (x >= chart.labelWidth) setCursor(chart.us(x)); return; }
  const hit = chart.hit(x, y);
  if (hit.row < 0) return;
  chart.focusRow = hit.row;
  if (hit.lane === undefined) toggle(hit.row);
  else {
    if (x >= chart.labelWidth) setCursor(hit.event >= 0 ? model.time[hit.event] : hit.us);
    select(hit.lane, hit.event ?? -1);
  }
});

area.addEventListener("pointercancel", () => { drag = null; chart.brush = null; chart.ask(); });
area.addEventListener("pointerleave", () => { tip.hidden = true; chart.hover = null; chart.ask(); });
area.addEventListener("dblclick", (event) => {
  const hit = chart.hit(...point(event));
  if (hit.interval >= 0) { const [start, end] = [model.start[hit.interval], model.end[hit.interval]]; chart.setRange(start - (end - start) * 0.3, end + (end - start) * 0.3); }
});
area.addEventListener("scroll", () => { tip.hidden = true; chart.ask(); });

const wheel = (event, us, canScroll) => {
  const isZoom = event.ctrlKey || event.metaKey || event.altKey || !canScroll;
  if (Math.abs(event.deltaX) > Math.abs(event.deltaY) || (event.shiftKey && event.deltaX)) { event.preventDefault(); chart.pan(event.deltaX); }
  else if (event.shiftKey) { event.preventDefault(); chart.pan(event.deltaY); }
  else if (isZoom) { event.preventDefault(); chart.zoom(Math.exp(Math.max(Math.min(event.deltaY, 200), -200) * 0.002), us); }
};
area.addEventListener("wheel", (event) => {
  const [x, y] = point(event);
  wheel(event, chart.us(x), area.scrollHeight > area.clientHeight && y >= AXIS);
}, { passive: false });

let overviewDrag = null;
overview.addEventListener("pointerdown", (event) => {
  const x = event.clientX - overview.getBoundingClientRect().left;
  const [from, to] = [overviewX(chart.from), overviewX(chart.to)];
  const isWhole = chart.to - chart.from > model.span * 0.98;
  // Within the window of what is shown a drag moves it, elsewhere it draws another one.
  overviewDrag = { x, from: chart.from, to: chart.to, isMove: !isWhole && x > from && x < to };
  overview.setPointerCapture(event.pointerId);
});
overview.addEventListener("pointermove", (event) => {
  if (!overviewDrag) return;
  const x = event.clientX - overview.getBoundingClientRect().left;
  if (overviewDrag.isMove) {
    const shift = overviewUs(x) - overviewUs(overviewDrag.x);
    chart.setRange(overviewDrag.from + shift, overviewDrag.to + shift);
  } else { overviewBrush = [overviewDrag.x, x]; drawOverview(); }
});
overview.addEventListener("pointerup", (event) => {
  if (!overviewDrag) return;
  const x = event.clientX - overview.getBoundingClientRect().left, [one, other] = [overviewUs(overviewDrag.x), overviewUs(x)];
  if (!overviewDrag.isMove && Math.abs(x - overviewDrag.x) > 3) chart.setRange(Math.min(one, other), Math.max(one, other));
  else if (Math.abs(x - overviewDrag.x) <= 3) setCursor(one);
  overviewDrag = overviewBrush = null;
  drawOverview();
});
overview.addEventListener("wheel", (event) => wheel(event, overviewUs(event.clientX - overview.getBoundingClientRect().left), false), { passive: false });

// keys

const toggle = (row) => {
  const { group } = chart.rows[row];
  if (choice.closed.has(group)) choice.closed.delete(group); else choice.closed.add(group);
  update();
};

const focusRow = (row) => {
  chart.focusRow = Math.min(Math.max(row, 0), chart.rowCount - 1);
  if (chart.focusRow < 0) return;
  chart.show(chart.focusRow);
  chart.ask();
  const one = chart.rows[chart.focusRow];
  if (one.lane === undefined) { say(groupTitle(model, choice.group, one).slice(0, 300)); return; }
  say(wordsOf(one.lane, chart.intervalAt(one.lane, chart.cursor), chart.eventAt(one.lane, chart.cursor)).join("; ").slice(0, 600));
};

const step = (forward) => {
  const lane = chart.rows[chart.focusRow]?.lane;
  if (lane === undefined) return;
  const list = eventsOf(lane).map((at) => model.time[at]).sort((one, other) => one - other);
  const next = forward ? list.find((us) => us > chart.cursor) : list.findLast((us) => us < chart.cursor);
  if (next === undefined) { say(forward ? "no later event" : "no earlier event"); return; }
  setCursor(next);
  if (next < chart.from || next > chart.to) { const half = (chart.to - chart.from) / 2; chart.setRange(next - half, next + half); }
  focusRow(chart.focusRow);
};

const page = () => Math.max(Math.floor((area.clientHeight - AXIS) / chart.laneHeight) - 1, 1);
const centre = () => (chart.cursor >= chart.from && chart.cursor <= chart.to ? chart.cursor : (chart.from + chart.to) / 2);
const KEYS = {
  ArrowDown: () => focusRow(chart.focusRow + 1),
  ArrowUp: () => focusRow(chart.focusRow - 1),
  PageDown: () => focusRow(chart.focusRow + page()),
  PageUp: () => focusRow(chart.focusRow - page()),
  Home: () => focusRow(0),
  End: () => focusRow(chart.rowCount - 1),
  ArrowRight: (event) => (event.shiftKey ? chart.pan(chart.plotWidth / 8) : step(true)),
  ArrowLeft: (event) => (event.shiftKey ? chart.pan(-chart.plotWidth / 8) : step(false)),
  "+": () => chart.zoom(0.6, centre()),
  "=": () => chart.zoom(0.6, centre()),
  "-": () => chart.zoom(1 / 0.6, centre()),
  0: () => chart.fit(),
  Enter: () => {
    const one = chart.rows[chart.focusRow];
    if (!one) return;
    if (one.lane === undefined) toggle(chart.focusRow); else select(one.lane, chart.eventAt(one.lane, chart.cursor));
  },
};
area.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key]) return;
  event.preventDefault();
  KEYS[event.key](event);
});
area.addEventListener("focus", () => chart.ask());
area.addEventListener("blur", () => chart.ask());

document.addEventListener("keydown", (event) => {
  const isTyping = event.target instanceof HTMLInputElement || event.target instanceof HTMLSelectElement;
  if (event.key === "Escape" && !byId("help").open) deselect();
  else if (isTyping || event.ctrlKey || event.metaKey) return;
  else if (event.key === "/") { event.preventDefault(); byId("text").focus(); }
  else if (event.key === "?") byId("help").showModal();
});

const HELP = [
  ["drag", "moves through time and lanes"],
  ["wheel", "scrolls the lanes; with Ctrl, or above the lanes, it zooms; with Shift it moves through time"],
  ["drag on the axis or the overview, or with Shift", "zooms to what was marked"],
  ["double click", "zooms to an interval"],
  ["click", "opens the history of a task, and its allocation's JSON at that index"],
  ["click on the axis or the overview", "moves the time cursor, and the table with it"],
  ["↑ ↓, Page ↑ ↓, Home, End", "move between tasks"],
  ["← →", "move the cursor to the task's next event"],
  ["Shift and ← →", "move through time"],
  ["+ − 0", "zoom, and show the whole time"],
  ["Enter", "opens a task, or closes a group"],
  ["/", "goes to the text filter"],
  ["Escape", "closes what is open"],
];
byId("help").querySelector("dl").append(...HELP.flatMap(([keys, words]) => [element("dt", "", keys), element("dd", "", words)]));
byId("help-open").addEventListener("click", () => byId("help").showModal());

// the height of the table

const divider = byId("divider");
const setShare = (percent) => {
  const share = Math.min(Math.max(percent, 0), 80);
  byId("then").style.height = `${share}%`;
  divider.setAttribute("aria-valuenow", String(Math.round(share)));
  resize();
};
divider.addEventListener("pointerdown", (event) => divider.setPointerCapture(event.pointerId));
divider.addEventListener("pointermove", (event) => {
  if (!divider.hasPointerCapture(event.pointerId)) return;
  const box = byId("left").getBoundingClientRect();
  setShare((box.bottom - event.clientY) / box.height * 100);
});
divider.addEventListener("keydown", (event) => {
  const change = { ArrowUp: 5, ArrowDown: -5 }[event.key];
  if (change) { event.preventDefault(); setShare(Number(divider.getAttribute("aria-valuenow")) + change); }
});

// colours

const drawLegend = () => {
  const legend = byId("legend");
  const sample = (draw, words) => {
    const canvas = document.createElement("canvas");
    canvas.setAttribute("aria-hidden", "true");
    draw(canvasContext(canvas, 18, 14));
    return element("li", "", canvas, words);
  };
  const items = model.kinds.map((kind, number) => sample((context) => {
    const [top, part] = barOf(kind.name);
    context.fillStyle = kind.name === "gap" ? hatchOf(context, chart.ink, chart.ground) : chart.colours[number];
    context.fillRect(0, top * 14, 18, Math.max(part * 14, 1.5));
    if (kind.name === "failed") { context.fillStyle = chart.ink; context.fillRect(15.5, top * 14, 2.5, part * 14); }
  }, kind.words));
  const marks = model.marks.filter((mark) => mark.name !== "gap").map((mark) => sample((context) => drawMark(context, mark.shape, 9, 7, 9, chart.ink, chart.ground), mark.words));
  legend.replaceChildren(...items, ...marks);
};

const system = window.matchMedia("(prefers-color-scheme: dark)");
let isDark = system.matches;
const paint = (dark) => {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  byId("theme").textContent = dark ? "Light" : "Dark";
  byId("theme").setAttribute("aria-label", dark ? "Use light colours" : "Use dark colours");
  chart.theme(dark);
  backdrop = null;
  drawLegend();
  drawOverview();
  askTable();
};
byId("theme").addEventListener("click", () => { isDark = !isDark; paint(isDark); });
system.addEventListener("change", (event) => { isDark = event.matches; paint(isDark); });

// paper: light, as wide as the page, with every lane that fits on a few sheets

const PRINTED = 600;
window.addEventListener("beforeprint", () => {
  paint(false);
  const rows = Math.min(chart.rowCount, PRINTED);
  chart.paperHeight = AXIS + rows * chart.laneHeight + 4;
  chart.draw();
  if (rows < chart.rowCount) byId("summary").textContent += `; printed are the first ${rows} of ${chart.rowCount} rows`;
});
window.addEventListener("afterprint", () => { chart.paperHeight = 0; paint(isDark); update(); });

const resize = () => { chart.ask(); askOverview(); askTable(); };
window.addEventListener("resize", resize);

byId("title").textContent = model.data.title || "Tasks";
byId("title").title = model.data.title;
if (model.laneCount > 400) { byId("height").value = "14"; chart.laneHeight = 14; }
chart.width = area.clientWidth;
paint(isDark);
update();
chart.fit();
setCursor(model.span);
chart.draw();
drawTable();

// For tests and measurements: what is shown.
window.timeline = { model, chart, choice, select, setCursor, rows: () => shown };
})();
