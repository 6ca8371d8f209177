/* The view of one exploration: what crash_view.html has room for. */
const SVG = "http://www.w3.org/2000/svg", PRINTED_ROWS = 500;

function draw(parent, name, values, text) {
	const e = document.createElementNS(SVG, name);
	for (const [k, v] of Object.entries(values))
		e.setAttribute(k, v);
	if (text !== undefined)
		e.textContent = text;
	parent.append(e);
	return e;
}

function pairs(list, entries) {
	for (const [term, value] of entries) {
		const box = list.className === "counts" ? list.appendChild(make("div")) : list;
		box.append(make("dt", "", term), make("dd", "", value));
	}
}

/* Without the directories. */
const recordingOf = report => report.exploration.trace.replace(/.*\//s, "").replace(/(.)\.trace$/, "$1");
const checkedOf = report => { const s = report.states; return s.good + s.bad + s.crash + s.hang; };
const colourOf = p => p.failing > 0 ? "fail" : p.complete ? "good" : "some";

function crashVerdict(report) {
	const failing = report.failing_states, checked = checkedOf(report);
	const complete = report.points_complete === report.exploration.crash_points;
	const part = report.shard[1] > 1 ? " (one shard of " + report.shard[1] + ")" : "";
	return [failing > 0 ? "is-fail" : complete ? "is-good" : "is-some",
		(failing > 0 ? plural(failing, "state") + " of " + say(checked) + (failing === 1 ? " fails" : " fail") : "No state of " + say(checked) + " fails" +
			(complete ? ": these are all there are" : "; more are possible")) + part + (report.interrupted ? "; interrupted" : "")];
}

/* Fills the view, which is in the page. */
function showCrash(report) {
	const about = report.exploration, states = report.states, points = report.points, findings = report.findings;
	const timeline = report.timeline || { events: 0, commands: [], left_out: about.commands, flushes: 0, marks: [], marks_left_out: 0 };
	const TOP = 34, BOTTOM = 52, LEFT = 8;
	const commands = timeline.commands.map(c => ({ number: c[0], kind: c[1], offset: c[2], length: c[3], connection: c[4], fua: c[5] === 1,
		received: c[6], answered: c[7], durable: c[8], ok: c[9] === 1 }));
	let chosen = -1, point = 0;

	const markBefore = event => timeline.marks.filter(m => m[0] < event).pop();
	const stateOf = p => p.failing > 0 ? "some fail" : p.complete ? "all there are were checked, and are good" :
		p.states > 0 ? "all that were checked are good; there are more" : "none was checked; there are some";

	function nameOf(c) {
		const place = c.kind === "FLUSH" ? "" : " " + c.offset + "+" + c.length;
		return c.number + " " + c.kind + (c.fua ? " FUA" : "") + place;
	}

	function told(c) {
		const mark = markBefore(c.received);
		return nameOf(c) + ", connection " + c.connection + (c.ok ? "" : c.answered < 0 ? ", never answered" : ", failed") +
			(mark ? ", after the mark “" + mark[1] + "”" : "");
	}

	/* ---- the axes: only what is shown takes room ---- */

	const moments = [...new Set([0, timeline.events, commands.map(c => [c.received, c.answered, c.durable]), timeline.marks.map(m => m[0]),
		points.map(p => p.at), findings.map(f => f.at)].flat(2))].filter(t => t >= 0).sort((a, b) => a - b);
	const rank = new Map(moments.map((t, i) => [t, i]));
	const width = Math.max(id("chart").clientWidth, 700, Math.min(12000, moments.length * 7)), step = (width - 2 * LEFT) / Math.max(1, moments.length);
	const x = t => LEFT + rank.get(t) * step;
	const writes = commands.filter(c => c.kind !== "FLUSH");
	const borders = [...new Set(writes.flatMap(c => [c.offset, c.offset + c.length]))].sort((a, b) => a - b);
	const height = Math.max(110, Math.min(420, borders.length * 14)), full = TOP + height + BOTTOM;
	const places = (function () {
		const change = new Map(), at = new Map();
		let depth = 0, sum = 0;
		for (const c of writes) {
			change.set(c.offset, (change.get(c.offset) || 0) + 1);
			change.set(c.offset + c.length, (change.get(c.offset + c.length) || 0) - 1);
		}
		for (const b of borders) {
			at.set(b, sum);
			depth += change.get(b);
			sum += depth > 0 ? 1 : .3;
		}
		for (const b of borders)
			at.set(b, TOP + at.get(b) / (sum || 1) * height);
		return at;
	})();

	/* ---- the timeline ---- */

	function drawWrite(svg, c) {
		const left = x(c.received), right = c.durable >= 0 ? x(c.durable) : width - LEFT, top = places.get(c.offset);
		const h = Math.max(2, places.get(c.offset + c.length) - top - 1);
		const bar = draw(svg, "rect", { class: "write" + (c.kind === "WRITE" ? "" : " zero"), "data-command": c.number, x: left, y: top,
			width: Math.max(2, right - left), height: h });
		draw(bar, "title", {}, told(c));
		draw(svg, "rect", { class: "edge", x: left, y: top, width: 1.5, height: h });
		if (c.fua && c.answered >= 0)
			draw(svg, "path", { class: "fua", d: "M" + x(c.answered) + " " + (top + h / 2 - 4) + "l4 4l-4 4l-4 -4z" });
		if (writes.length <= 60 && h >= 7)
			draw(svg, "text", { x: left + 4, y: top + h / 2 + 4 }, c.number + (c.fua ? " FUA" : ""));
	}

	function drawFlush(svg, c) {
		const left = x(c.received), right = c.answered >= 0 ? x(c.answered) : width - LEFT;
		const bar = draw(svg, "rect", { class: "flush", x: left, y: 20, width: Math.max(2, right - left), height: 8 });
		draw(bar, "title", {}, told(c));
	}

	function drawMark(svg, m) {
		const flag = draw(svg, "path", { class: "mark", d: "M" + x(m[0]) + " 4v13l7 -9z" });
		draw(flag, "title", {}, "mark “" + m[1] + "”");
	}

	/* By height and filling, too: not by the colour alone. */
	function drawPoint(svg, p, i) {
		const colour = colourOf(p), h = colour === "fail" ? 24 : colour === "some" ? 16 : 10, base = full - 24;
		const bar = draw(svg, "rect", { class: colour, "data-point": i, x: x(p.at) - 2, y: base - h, width: 4, height: h });
		draw(bar, "title", {}, pointText(i));
	}

	function pointText(i) {
		const p = points[i], mark = markBefore(p.at);
		return "Crash point " + say(p.number) + " of " + say(about.crash_points) + ", when " + say(p.at) + " of " + say(timeline.events) +
			" requests, replies and marks had come" + (mark ? ", after the mark “" + mark[1] + "”" : "") + ": " +
			plural(p.pending, "write") + " that may be lost, " + plural(p.states, "new state") + ", " + say(p.failing) + " failing; " +
			stateOf(p) + ".";
	}

	function drawGaps(svg) {
		const known = new Set([commands.map(c => [c.received, c.answered]), timeline.marks.map(m => m[0])].flat(2));
		for (let i = 1; i < moments.length; i++)
			if (moments[i] - moments[i - 1] > 1 && !known.has(moments[i] - 1))
				draw(svg, "line", { class: "gap", x1: x(moments[i]) - step / 2, x2: x(moments[i]) - step / 2, y1: TOP, y2: TOP + height });
	}

	function drawFinding(svg, f) {
		svg.classList.add("dim");
		draw(svg, "line", { class: "cut", x1: x(f.at), x2: x(f.at), y1: 16, y2: full - 24 });
		const lost = new Set([...(f.lost || []), ...(f.torn || []).map(t => t.command)]), durable = new Set(f.durable || []);
		for (const bar of svg.querySelectorAll(".write")) {
			const n = Number(bar.dataset.command);
			if (lost.has(n) || durable.has(n)) {
				bar.classList.add(lost.has(n) ? "lost" : "durable");
				draw(svg, "text", { class: "name", x: Number(bar.getAttribute("x")) + 3, y: Number(bar.getAttribute("y")) - 2 }, n);
			}
		}
	}

	function drawChart() {
		const svg = document.createElementNS(SVG, "svg");
		for (const [k, v] of Object.entries({ viewBox: "0 0 " + width + " " + full, width: width, height: full, "aria-hidden": "true" }))
			svg.setAttribute(k, v);
		if (timeline.left_out + timeline.marks_left_out > 0)
			drawGaps(svg);
		writes.forEach(c => drawWrite(svg, c));
		commands.filter(c => c.kind === "FLUSH").forEach(c => drawFlush(svg, c));
		timeline.marks.forEach(m => drawMark(svg, m));
		points.forEach((p, i) => drawPoint(svg, p, i));
		if (chosen >= 0)
			drawFinding(svg, findings[chosen]);
		draw(svg, "text", { x: LEFT, y: full - 4 }, "first request");
		draw(svg, "text", { x: width - LEFT, y: full - 4, "text-anchor": "end" }, "last event: " + say(timeline.events));
		id("chart").replaceChildren(svg);
		showPoint();
	}

	function showPoint() {
		const svg = id("chart").firstChild, old = svg.querySelector(".here"), bar = id("chart");
		if (old)
			old.remove();
		if (points.length === 0)
			return;
		draw(svg, "line", { class: "here", x1: x(points[point].at), x2: x(points[point].at), y1: full - 23, y2: full - 14 });
		bar.setAttribute("aria-valuemax", points.length);
		bar.setAttribute("aria-valuenow", point + 1);
		bar.setAttribute("aria-valuetext", pointText(point));
		id("read").textContent = pointText(point) + " (Arrow keys go from point to point.)";
	}

	function goTo(i) {
		const bar = id("chart");
		point = Math.max(0, Math.min(points.length - 1, i));
		showPoint();
		const at = x(points[point].at);
		if (at < bar.scrollLeft + 20 || at > bar.scrollLeft + bar.clientWidth - 20)
			bar.scrollLeft = at - bar.clientWidth / 2;
	}

	id("chart").addEventListener("keydown", e => {
		const to = { ArrowLeft: point - 1, ArrowDown: point - 1, ArrowRight: point + 1, ArrowUp: point + 1, PageUp: point + 10,
			PageDown: point - 10, Home: 0, End: points.length - 1 }[e.key];
		if (to === undefined || points.length === 0)
			return;
		e.preventDefault();
		goTo(to);
	});
	id("chart").addEventListener("click", e => {
		if (e.target.dataset && e.target.dataset.point !== undefined)
			goTo(Number(e.target.dataset.point));
	});

	function legend() {
		const entries = [["<rect class='write' x='1' y='4' width='14' height='8'/><rect class='edge' x='1' y='4' width='1.5' height='8'/>", "a write, from its request until it is durable"],
			["<path class='fua' d='M8 2l5 6l-5 6l-5 -6z'/>", "FUA"], ["<rect class='flush' x='2' y='5' width='12' height='6'/>", "flush"],
			["<path class='mark' d='M4 1v14l9 -10z'/>", "mark"], ["<rect class='good' x='6' y='8' width='4' height='7'/>", "crash point, all states good"],
			["<rect class='fail' x='6' y='0' width='4' height='15'/>", "some fail"], ["<rect class='some' x='6' y='4' width='4' height='11'/>", "good, but only a sample"]];
		for (const [shape, text] of entries) {
			const li = make("li"), svg = document.createElementNS(SVG, "svg");
			svg.setAttribute("viewBox", "0 0 16 16");
			svg.setAttribute("aria-hidden", "true");
			svg.innerHTML = shape;
			li.append(svg, text);
			id("key").append(li);
		}
	}

	/* ---- findings ---- */

	function choose(i) {
		chosen = chosen === i ? -1 : i;
		document.querySelectorAll("article button[aria-pressed]").forEach((b, k) => b.setAttribute("aria-pressed", String(k === chosen)));
		drawChart();
		if (chosen < 0)
			return;
		const at = points.findIndex(p => p.at === findings[i].at);
		goTo(at < 0 ? 0 : at);
		id("chart").scrollLeft = x(findings[i].at) - id("chart").clientWidth / 2;
		id("time").scrollIntoView({ block: "start" });
	}

	function finding(f, i) {
		const article = make("article"), list = make("dl"), actions = make("div", "actions");
		const head = f.told[0].replace(/^finding \d+, /, "");
		article.append(make("h3", "", "Finding " + (i + 1)), make("p", "", head));
		const last = f.told.findIndex(line => /^ +replay: /.test(line));
		for (const line of f.told.slice(1, last)) {
			const [, term, text] = /^ +(?:(\w[\w ]*): +)?(.*)$/.exec(line) || ["", "", "", line];
			list.append(make("dt", "", term || ""), make("dd", /^(lost|torn|durable)$/.test(term) ? term : "", text));
		}
		replay(article, f.told.slice(last).join("\n").replace(/^ +replay: +/, ""), f.replay);
		article.insertBefore(list, article.children[2] || null);
		const show = make("button", "", "Show in the timeline");
		show.type = "button";
		show.setAttribute("aria-pressed", "false");
		show.addEventListener("click", () => choose(i));
		actions.append(show);
		article.append(actions);
		return article;
	}

	/* ---- the table ---- */

	const COLUMNS = ["event", "what", "place", "FUA", "connection", "answered", "durable"];

	function row(table, cells, className) {
		const tr = table.insertRow();
		tr.className = className;
		for (const cell of cells)
			tr.insertCell().textContent = cell;
		if (className) {
			tr.cells[1].className = "wide";
			tr.cells[1].colSpan = COLUMNS.length - 1;
		}
	}

	function fillTable() {
		const table = make("table"), head = table.createTHead().insertRow(), body = table.createTBody(), all = [];
		for (const name of COLUMNS)
			head.append(Object.assign(make("th", "", name), { scope: "col" }));
		for (const c of commands)
			all.push([c.received, 2, [c.received, c.number + " " + c.kind, c.kind === "FLUSH" ? "" : c.offset + "+" + c.length, c.fua ? "FUA" : "",
				c.connection, c.answered < 0 ? "never" : c.ok ? c.answered : c.answered + ", failed",
				c.kind === "FLUSH" ? "" : c.durable < 0 ? "never" : c.durable], ""]);
		for (const m of timeline.marks)
			all.push([m[0], 0, [m[0], "mark “" + m[1] + "”"], "mark"]);
		points.forEach((p, i) => all.push([p.at, 1, [p.at, "crash point " + say(p.number) + ": " + plural(p.states, "new state") + ", " + say(p.failing) +
			" failing; " + stateOf(p)], "point is-" + colourOf(p)]));
		all.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
		for (const [, , cells, className] of all)
			row(body, cells, className);
		id("rows").replaceChildren(table);
	}

	/* ---- all of it ---- */

	function counts() {
		const checked = checkedOf(report) - states.decided, seconds = report.seconds;
		pairs(id("counts"), [["commands", say(about.commands)], ["flushes", say(timeline.flushes)], ["marks", say(about.marks_set)],
			["crash points", say(about.crash_points)], ["states met", say(states.met)], ["checked", say(checked)],
			["decided by what is read", say(states.decided)], ["failing", say(report.failing_states)], ["hung, crashed", say(states.hang) + ", " + say(states.crash)],
			["minimised findings", say(findings.length)], ["failing, not minimised", say(report.unexplained)], ["seconds", seconds.toFixed(1)],
			["verdicts per second", seconds > 0 ? say(Math.round((checked + states.decided + states.minimising) / seconds)) : ""],
			["first failure after", report.first_failure < 0 ? "none" : report.first_failure.toFixed(2) + " s"]]);
	}

	function leftOut() {
		const parts = [[timeline.left_out, "command"], [timeline.marks_left_out, "mark"], [report.points_left_out, "crash point"]].filter(p => p[0] > 0);
		if (parts.length > 0)
			id("left-out").textContent = "Left out here, away from the findings: " + parts.map(p => plural(p[0], p[1])).join(", ") + ".";
	}

	counts();
	legend();
	leftOut();
	drawChart();
	if (findings.length === 0)
		id("findings").append(make("p", "soft", "None."));
	findings.forEach((f, i) => id("findings").append(finding(f, i)));
	if (report.unexplained > 0)
		id("findings").append(make("p", "soft", plural(report.unexplained, "more failing state") + " not minimised."));
	fillTable();
	pairs(id("how"), [["trace", about.trace], ["identity", about.identity], ["checker", about.check],
		["writes tear", about.tear === "write" ? "not" : "every " + about.unit + " bytes"], ["budget", say(about.budget)], ["seed", String(about.seed)],
		["disk", say(about.size) + " bytes"], ["shard", report.shard[0] + " of " + report.shard[1]], ["nbdspec", about.version]]);
}

/* On paper all of it is open, but for what would fill a book. */
window.addEventListener("beforeprint", () => {
	if (id("rows") && id("rows").querySelectorAll("tr").length <= PRINTED_ROWS)
		id("table").open = true;
});
