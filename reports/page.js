const id = name => document.getElementById(name);
const say = n => n.toLocaleString("en");
const plural = (n, word) => say(n) + " " + word + (n === 1 ? "" : "s");

function make(name, className, text) {
	const e = document.createElement(name);
	if (className)
		e.className = className;
	if (text !== undefined)
		e.textContent = text;
	return e;
}

function copy(button, text) {
	const done = () => { button.textContent = "Copied"; };
	const byHand = () => {
		const area = make("textarea");
		area.value = text;
		document.body.append(area);
		area.select();
		if (document.execCommand("copy"))
			done();
		area.remove();
		button.focus();
	};
	if (navigator.clipboard && window.isSecureContext)
		navigator.clipboard.writeText(text).then(done, byHand);
	else
		byHand();
}

/* Shown is what is printable, copied what can be run. */
function replay(parent, text, command) {
	const line = make("p", "replay"), button = make("button", "", "Copy");
	button.type = "button";
	button.setAttribute("aria-label", "Copy the command that replays it");
	button.addEventListener("click", () => copy(button, command));
	line.append(make("code", "", text), button);
	parent.append(line);
}
