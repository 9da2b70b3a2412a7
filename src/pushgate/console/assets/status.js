"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const SHOWN = 100, FILTER_FROM = 12, SVG = "http://www.w3.org/2000/svg";
  const STILL = location.search === "?still";  // a picture of this moment: for printing, and for whoever may not watch
  let state = null, lanes = new Map(), heard = 0, all = false, wasSaid = "", source = null;

  // --- how things are written: everything from outside goes through textContent, never through HTML

  const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
  const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
  function fill(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }
  function put(node, text) {
    text = String(text);
    if (node.textContent !== text) node.textContent = text;
  }
  const whole = new Intl.NumberFormat("en");
  const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
  const count = (n) => (n < 1e6 ? whole.format(n) : short.format(n));
  const rate = (n) => (n >= 100 ? whole.format(Math.round(n)) : n >= 10 ? n.toFixed(1) : n > 0 && n < 0.01 ? "<0.01" : n ? n.toFixed(2) : "0");
  function lasting(s) {
    s = Math.max(0, Math.round(s));
    if (s < 60) return `${s} s`;
    if (s < 3600) return `${Math.floor(s / 60)} min`;
    if (s < 172800) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
    return `${Math.floor(s / 86400)} d`;
  }
  const millis = (s) => (s < 0.0995 ? `${(s * 1000).toFixed(s < 0.00995 ? 1 : 0)} ms` : s < 0.9995 ? `${Math.round(s * 1000)} ms` : `${s.toFixed(s < 9.95 ? 1 : 0)} s`);
  const bytes = (n) => (n < 1e6 ? `${(n / 1e3).toFixed(0)} kB` : n < 1e9 ? `${(n / 1e6).toFixed(n < 1e7 ? 1 : 0)} MB` : `${(n / 1e9).toFixed(1)} GB`);
  const clock = (at) => new Date(at * 1000).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
  const level = (severity) => ["good", "good", "warn", "bad"][severity];

  // --- the parts of the page

  function drawHealth() {
    const { health, at } = state;
    const urgent = state.notices.some((each) => each.urgent && !each.until);
    const held = [...lanes.values()].filter((each) => each.severity > 1).length;
    const well = urgent ? ["bad", "Needs attention"] : held ? ["warn", held === 1 ? "One lane held up" : `${count(held)} lanes held up`] : lanes.size ? ["good", "Healthy"] : ["warn", "Nothing configured"];
    const [how, text] = health.state === "ok" ? well : health.state === "not ready" ? ["bad", "Not ready"] : ["warn", health.state[0].toUpperCase() + health.state.slice(1)];
    $("state").dataset.level = how;
    put($("state-text"), text);
    put($("about"), `version ${health.version || "?"}${health.started_at ? ` · up ${lasting(at - health.started_at)}` : ""}`);
    document.title = `${how === "good" ? "" : "● "}${text} · pushgate`;
    say([text, ...state.notices.filter((each) => !each.until).map((each) => `${each.what} ${each.lane}`)].join(", "));
  }
  function say(text) {
    if (text !== wasSaid) put($("said"), text);
    wasSaid = text;
  }

  function drawFigures() {
    const t = state.totals, lost = t.hour_undeliverable + t.hour_expired;
    const figures = [
      ["Notifications", rate(t.notifications_per_s), "/ s", `${count(t.hour_notifications)} last hour`],
      ["Accepted", rate(t.accepted_per_s), "/ s", `${count(t.hour_accepted)} last hour`],
      ["Waiting", count(t.waiting), "", `${bytes(state.machine.spool_bytes)} on disk`],
      ["Oldest waiting", t.waiting ? lasting(t.oldest_s) : "–", "", "in all lanes", t.oldest_s > 3600 ? "is-warn" : ""],
      ["In flight", count(t.in_flight), "", "no answer yet"],
      ["Dead pushkeys", count(t.hour_rejected), "", "last hour"],
      ["Lost", count(lost), "", lost ? `${count(t.hour_undeliverable)} refused, ${count(t.hour_expired)} too late` : "last hour", lost ? "is-warn" : ""],
      ["Answered 5xx", count(t.hour_broken), "", "last hour", t.hour_broken ? "is-bad" : ""],
    ];
    const list = $("figures");
    if (list.children.length !== figures.length) {
      list.replaceChildren(...figures.map(([name]) => el("div", {}, el("dt", {}, name), el("dd"), el("dd", { class: "hint" }))));
    }
    figures.forEach(([, value, unit, hint, mark], n) => {
      const [, first, second] = list.children[n].children;
      put(first, value);
      first.className = `${unit ? "unit-s " : ""}${mark || ""}`;
      first.dataset.unit = unit;
      put(second, hint);
    });
  }

  function notice(each) {
    const how = each.until ? "" : each.urgent ? "bad" : "warn";
    const when = each.until ? `${clock(each.since)} – ${clock(each.until)}` : each.since ? `since ${clock(each.since)} (${lasting(state.at - each.since)})` : "";
    const item = el("li", how ? { "data-level": how } : {},
      el("span", { class: "what" }, each.what[0].toUpperCase() + each.what.slice(1)),
      el("span", { class: "where" }, each.lane), el("span", { class: "when" }, when),
      el("p", { class: "told" }, each.meaning), el("p", { class: "told mend" }, each.mend));
    if (each.reasons.length) {
      item.append(el("p", { class: "told muted" }, "Said meanwhile: " + each.reasons.map(([reason, n]) => `${reason} × ${count(n)}`).join(", ")));
    }
    return item;
  }
  function drawNotices() {
    const now = state.notices.filter((each) => !each.until), past = state.notices.filter((each) => each.until);
    put($("notices-n"), now.length || "");
    $("notices").replaceChildren(...(now.length ? now.map(notice) : [el("li", { class: "calm" }, "Nothing.")]));
    $("past").hidden = !past.length;
    put($("past-n"), past.length);
    $("past-list").replaceChildren(...past.map(notice));
  }

  // --- charts

  function ceiling(most) {
    if (most <= 0) return 1;
    const unit = 10 ** Math.floor(Math.log10(most));
    return [1, 2, 2.5, 5, 10].map((each) => each * unit).find((each) => each >= most * 0.999);
  }
  function chart(node, series, steps, write, least = 0) {
    const width = node.clientWidth || 600, height = node.clientHeight || 132, bottom = height - 18, top = 6, STEPS = 360;
    const high = ceiling(Math.max(least, ...series.flatMap(([, values]) => values)));
    const left = 8 + 6.6 * Math.max(write(high).length, write(high / 2).length), right = width - 2;
    const x = (n) => right - ((steps - 1 - n) / (STEPS - 1)) * (right - left), y = (value) => bottom - (value / high) * (bottom - top);
    const parts = [];
    for (const share of [0, 0.5, 1]) {
      const at = Math.round(y(high * share)) + 0.5;
      parts.push(svg("line", { class: "grid", x1: left, x2: right, y1: at, y2: at }),
        svg("text", { x: left - 6, y: at + 3.5, "text-anchor": "end" }, write(high * share)));
    }
    for (const ago of width < 420 ? [60, 30, 0] : [60, 45, 30, 15, 0]) {
      const at = right - (ago / 60) * (right - left);
      parts.push(svg("text", { x: at, y: height - 3, "text-anchor": ago === 60 ? "start" : ago ? "middle" : "end" }, ago ? `−${ago} min` : "now"));
    }
    for (const [name, values] of series) {
      if (values.length < 2) continue;
      const points = values.map((value, n) => `${x(n).toFixed(1)},${y(value).toFixed(1)}`).join(" L");
      if (name === "lost") {
        const bars = values.map((value, n) => (value ? `M${x(n).toFixed(1)},${bottom} V${Math.min(y(value), bottom - 3).toFixed(1)}` : "")).join("");
        parts.push(svg("path", { class: "line lost", d: bars }));
        continue;
      }
      if (name !== "notifications") parts.push(svg("path", { class: `area ${name}`, d: `M${x(0).toFixed(1)},${bottom} L${points} L${right},${bottom} Z` }));
      parts.push(svg("path", { class: `line ${name}`, d: `M${points}` }));
    }
    node.setAttribute("viewBox", `0 0 ${width} ${height}`);
    node.replaceChildren(...parts);
  }
  function drawCharts() {
    const { notifications, accepted, lost, waiting } = state.hour, steps = waiting.length;
    const some = lost.some((each) => each > 0) ? [["lost", lost]] : [];
    chart($("chart-rate"), [["notifications", notifications], ["accepted", accepted], ...some], steps, (n) => (n >= 1e4 ? short.format(n) : String(+n.toPrecision(3))));
    chart($("chart-waiting"), [["accepted", waiting]], steps, (n) => short.format(n), 2);
    const most = (values) => rate(Math.max(0, ...values));
    $("chart-rate").setAttribute("aria-label", `Per second in the last hour: notifications at most ${most(notifications)}, accepted at most ${most(accepted)}, lost at most ${most(lost)}`);
    $("chart-waiting").setAttribute("aria-label", `Waiting in the last hour: at most ${count(Math.max(0, ...waiting))}, now ${count(state.totals.waiting)}`);
  }

  // --- tables

  const COLUMNS = ["", "Waiting", "Oldest", "In flight", "Per second", "Accepted", "Rejected", "Deferred", "Lost", "Latency", "Reasons"];
  const PROVIDERS = { apns: "APNs", fcm: "FCM" };
  const rows = new Map();
  function laneRow(name) {
    const row = el("tr", { role: "row" }, el("th", { scope: "row", role: "rowheader" }));
    COLUMNS.forEach((label, n) => {
      const cell = el("td", { role: "cell", class: n === 10 ? "reasons" : n === 9 ? "n latency-cell" : n ? "n" : "" });
      if (label) cell.dataset.label = label;
      row.append(cell);
    });
    rows.set(name, row);
    return row;
  }
  function number(cell, value, text = count(value), mark = "") {
    put(cell, text);
    cell.className = `n ${value ? mark : "zero"}`;
  }
  function drawLane(row, lane) {
    if (row.drawn === lane) return;
    row.drawn = lane;
    const [name, how, waiting, oldest, flying, perS, accepted, rejected, deferred, lost, latency, reasons] = row.children;
    name.replaceChildren(lane.lane, el("span", { class: "via" }, PROVIDERS[lane.provider] || lane.provider || "not configured"));
    const also = [];
    if (lane.state === "no answer" || lane.state === "outage") also.push(`for ${lasting(lane.failing_s)}`);
    if (lane.pause_s) also.push(`next try in ${lasting(lane.pause_s)}`);
    how.replaceChildren(lane.state === "ok" ? el("span", { class: "muted" }, "ok") : el("span", { class: "tag", "data-level": level(lane.severity) }, lane.state),
      ...also.map((each) => el("span", { class: "via" }, each)));
    number(waiting, lane.waiting);
    number(oldest, lane.waiting, lane.waiting ? lasting(lane.oldest_s) : "–", lane.oldest_s > 3600 ? "is-warn" : "");
    number(flying, lane.in_flight, `${count(lane.in_flight)} / ${count(lane.limit)}`);
    number(perS, lane.accepted_per_s, rate(lane.accepted_per_s));
    number(accepted, lane.accepted);
    number(rejected, lane.rejected);
    number(deferred, lane.deferred);
    number(lost, lane.undeliverable + lane.expired, count(lane.undeliverable + lane.expired), "is-warn");
    lost.title = `${count(lane.undeliverable)} undeliverable, ${count(lane.expired)} out of time`;
    drawLatency(latency, lane);
    reasons.replaceChildren(...lane.reasons.slice(0, 3).map(([outcome, reason, n]) => fill(el("span", { title: outcome }), {}, [el("b", {}, reason), ` ${count(n)}`])));
  }
  function drawLatency(cell, lane) {
    if (!lane.p95_s) {
      cell.replaceChildren(el("span", { class: "zero" }, "–"));
      return;
    }
    const most = Math.max(...lane.spread), bars = lane.spread.map((n, at) => {
      const high = n ? Math.max(1.5, (n / most) * 16) : 0;
      return svg("rect", { x: at * 4, width: 3, y: 16 - high, height: high });
    });
    const spark = svg("svg", { class: "spark", viewBox: `0 0 ${lane.spread.length * 4} 16`, "aria-hidden": "true" }, ...bars);
    cell.replaceChildren(el("span", { class: "latency" }, spark, el("span", {}, `${millis(lane.p50_s)} · ${millis(lane.p95_s)}`)));
  }
  function drawLanes() {
    const wanted = $("filter").value.trim().toLowerCase();
    const sorted = [...lanes.values()].sort((a, b) => b.severity - a.severity || (a.severity ? b.waiting - a.waiting : 0) || (a.lane < b.lane ? -1 : 1));
    const found = wanted ? sorted.filter((each) => `${each.lane} ${each.provider} ${each.state}`.toLowerCase().includes(wanted)) : sorted;
    const visible = all ? found : found.slice(0, SHOWN);
    const body = $("lanes").tBodies[0];
    const nodes = visible.map((lane) => {
      const row = rows.get(lane.lane) || laneRow(lane.lane);
      drawLane(row, lane);
      return row;
    });
    if (!lanes.size) nodes.push(el("tr", { role: "row" }, el("td", { role: "cell", colspan: COLUMNS.length + 1, class: "empty" }, "No app is configured.")));
    if (nodes.length !== body.children.length || nodes.some((row, n) => body.children[n] !== row)) body.replaceChildren(...nodes);
    const total = lanes.size + state.more_lanes, hidden = found.length - visible.length;
    put($("lanes-n"), wanted ? `${count(found.length)} of ${count(total)}` : count(total));
    $("filter-l").hidden = lanes.size < FILTER_FROM;
    const more = $("lanes-more");
    more.hidden = !hidden && !state.more_lanes;
    more.replaceChildren();
    if (hidden) {
      const button = el("button", { type: "button" }, `Show ${count(hidden)} more`);
      button.addEventListener("click", () => { all = true; drawLanes(); });
      more.append(button, " ");
    }
    if (state.more_lanes) more.append(`${count(state.more_lanes)} calmer lanes are in the metrics only.`);
  }
  function table(id, items, cells, empty) {
    const body = $(id).tBodies[0], columns = $(id).tHead.rows[0].cells.length;
    body.replaceChildren(...(items.length ? items.map((item) => {
      const [name, ...rest] = cells(item);
      return el("tr", {}, el("th", { scope: "row" }, name), ...rest.map((cell) => (cell instanceof Node ? cell : el("td", { class: cell === 0 || cell === "0" ? "n zero" : "n" }, typeof cell === "number" ? count(cell) : cell))));
    }) : [el("tr", {}, el("td", { colspan: columns, class: "empty" }, empty))]));
  }
  const NOBODY = "(nobody)";
  const marked = (n, how) => el("td", { class: `n ${n ? how : "zero"}` }, count(n));
  function drawCallers() {
    put($("callers-n"), state.callers.length > 8 ? count(state.callers.length + state.more_callers) : "");
    const callers = state.callers.filter((each) => each.requests || each.caller !== NOBODY);
    table("callers", callers, (each) => [each.caller === NOBODY ? "(nobody we know)" : each.caller, rate(each.per_s), each.requests, marked(each.refused, ""), marked(each.broken, "is-bad"), each.notifications, each.failed], "Nobody yet.");
    $("callers-more").hidden = !state.more_callers;
    put($("callers-more"), `${count(state.more_callers)} more in the metrics.`);
  }
  function drawPeers() {
    table("peers", state.peers, (each) => [each.peer, each.connections, each.streams, each.queue, each.opened, marked(each.failed, "is-warn"), marked(each.lost, "is-warn")], "No provider is configured.");
  }
  function drawEnds() {
    table("ends", state.credentials, (each) => {
      const left = each.ends_at - state.at, soon = !each.what.includes("token") && left < 14 * 86400;
      const when = el("td", { class: `n ${soon ? (left < 0 ? "is-bad" : "is-warn") : ""}`, title: new Date(each.ends_at * 1000).toISOString() }, left < 0 ? "ended" : lasting(left));
      return [each.what, el("td", { class: "name" }, each.lane), when];
    }, "None of them does.");
  }
  function drawMachine() {
    const m = state.machine;
    const facts = [["CPU", `${m.cpu.toFixed(2)} cores`], ["Memory", bytes(m.memory_bytes)], ["Open files", count(m.open_files)], ["Spool on disk", bytes(m.spool_bytes)], ["Commits", `${rate(m.commits_per_s)} / s`], ["Commit, 95 %", m.commit_p95_s ? millis(m.commit_p95_s) : "–"], ["Repeats left out", count(m.repeats)]];
    $("machine").replaceChildren(...facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
  }

  // --- what comes in

  const PARTS = { health: drawHealth, notices: drawNotices, totals: drawFigures, hour: drawCharts, lanes: drawLanes, callers: drawCallers, peers: drawPeers, credentials: drawEnds, machine: drawMachine };
  function take(told, whole) {
    const before = whole ? new Map() : lanes;
    for (const lane of told.lanes || []) before.set(lane.lane, lane);
    for (const name of told.gone || []) { before.delete(name); rows.delete(name); }
    lanes = before;
    if (whole) rows.clear();
    state = whole ? told : Object.assign(state, told);
    heard = Date.now();
    for (const [part, draw] of Object.entries(PARTS)) {
      if (whole || part in told || part === "health" || part === "credentials") draw();
    }
    tick();
  }
  function tick() {
    if (!heard) return;
    const ago = Math.round((Date.now() - heard) / 1000);
    put($("fresh"), ago < 8 ? "live" : `not heard of for ${lasting(ago)}`);
    if (ago >= 20 && $("state").dataset.level !== "idle") {
      $("state").dataset.level = "idle";
      put($("state-text"), "No connection");
      say("No connection to the gateway");
    }
  }
  function listen() {
    source = new EventSource("status/events");
    source.addEventListener("status", (event) => take(JSON.parse(event.data), true));
    source.addEventListener("change", (event) => { if (state) take(JSON.parse(event.data), false); });
    source.addEventListener("end", () => { source.close(); setTimeout(ask, 1000); });
    source.addEventListener("error", () => { if (source.readyState === EventSource.CLOSED) setTimeout(ask, 3000); });
  }
  async function ask() {  // where there is no stream, for one reason or another
    try {
      const answer = await fetch("status.json", { cache: "no-store" });
      if (answer.ok) take(await answer.json(), true);
    } catch { /* it is not there: tried again */ }
    if (!STILL) setTimeout(listen, 4000);
  }
  $("filter").addEventListener("input", () => { if (state) drawLanes(); });
  addEventListener("resize", () => { if (state) drawCharts(); });
  if (STILL) ask();
  else {
    setInterval(tick, 1000);
    listen();
  }
})();
