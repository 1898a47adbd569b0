"""The report's style sheet: no fonts, scripts or pictures from anywhere; light and dark by the reader's setting."""

from stages.report.theme import DARK, LIGHT, variables

CSS = (
    f"""
:root {{ color-scheme: light dark; {variables(LIGHT)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {variables(DARK)} }} }}
"""
    + """
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); line-height: 1.55;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
main { max-width: 1280px; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
header p { color: var(--faint); max-width: 72ch; font-size: 1.05rem; margin: .4rem 0 0; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0; letter-spacing: -.02em; }
h2 { font-size: 1.25rem; margin: 0 0 .35rem; letter-spacing: -.01em; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
section { background: var(--paper); border: 1px solid var(--rule); border-radius: 12px; padding: 1.4rem 1.5rem 1.5rem;
  margin-top: 1.4rem; }
section > p { max-width: 78ch; margin: .3rem 0 1rem; color: var(--faint); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(235px, 1fr)); gap: .9rem; margin-top: 1.4rem; }
.card { background: var(--paper); border: 1px solid var(--rule); border-top: 3px solid var(--accent); border-radius: 10px;
  padding: .9rem 1.05rem 1rem; }
.card h3 { margin: 0; font-size: .95rem; color: var(--accent); }
.card .big { font-size: 1.85rem; font-weight: 650; letter-spacing: -.02em; line-height: 1.25; }
.card .unit { color: var(--faint); font-size: .82rem; }
.card ul { margin: .5rem 0 0; padding: 0; list-style: none; font-size: .87rem; }
.teacher { --accent: var(--teacher); } .guidance { --accent: var(--guidance); } .distill { --accent: var(--distill); }
.rl { --accent: var(--rl); } .steered { --accent: var(--steered); } .real { --accent: var(--real); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .45rem 1.2rem; margin: .6rem 0 0; font-size: .93rem; }
dt { font-weight: 600; } dd { margin: 0; color: var(--faint); max-width: 76ch; }
@media (max-width: 640px) { dl { grid-template-columns: 1fr; gap: .1rem; } dd { margin-bottom: .5rem; } }
.scroll { overflow-x: auto; margin: 0 -.4rem; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: .34rem .5rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--rule); }
thead th { color: var(--faint); font-weight: 600; font-size: .78rem; vertical-align: bottom; }
thead th[title]:not([title=""]) { cursor: help; text-decoration: underline dotted var(--rule) 1px;
  text-underline-offset: 3px; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--paper); z-index: 1; }
th.name { font-weight: 600; border-left: 3px solid var(--accent); }
tr.divider th { background: var(--wash); color: var(--faint); font-size: .75rem; font-weight: 600; padding: .3rem .6rem; }
tbody tr:hover td { background: var(--wash); }
.pairs th, .pairs td { text-align: left; white-space: normal; vertical-align: top; overflow-wrap: anywhere; }
.pairs th { font-weight: 500; width: 1%; white-space: nowrap; }
.pairs td { font-family: ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace; font-size: .8rem; }
.bar { display: inline-block; width: 3.1rem; height: .5rem; margin-left: .4rem; border-radius: 3px; background: var(--rule);
  vertical-align: .06rem; overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--accent); border-radius: 3px; }
.ci { color: var(--faint); font-size: .78rem; }
figure { margin: 0; } svg, figure img { display: block; width: 100%; height: auto; }
svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif !important; }
.samples { width: auto; }
.samples th, .samples td { padding: .22rem .28rem; border: 0; text-align: center; }
.samples thead th { font-weight: 500; min-width: 62px; white-space: normal; line-height: 1.25; color: var(--ink); }
.samples thead th:first-child { background: var(--paper); }
.samples thead em { display: block; font-style: normal; color: var(--faint); font-size: .7rem; }
.samples th.name { text-align: left; font-size: .82rem; padding: 0 .9rem 0 .6rem; }
.samples tbody tr:hover td { background: none; }
.samples img { display: block; margin: 0 auto; width: 54px; height: 54px; image-rendering: pixelated; border-radius: 3px; }
.samples td span { display: inline-block; padding: 2px; border-radius: 5px; border: 2px solid var(--wrong); }
.samples td.right span { border-color: var(--right); }
.samples td.unjudged span { border-color: transparent; }
.key { display: inline-block; width: .8rem; height: .8rem; border-radius: 3px; border: 2px solid; vertical-align: -.1rem; }
.key.right { border-color: var(--right); } .key.wrong { border-color: var(--wrong); }
details { margin-top: .8rem; } summary { cursor: pointer; font-weight: 600; font-size: .93rem; }
footer { color: var(--faint); font-size: .82rem; margin-top: 1.5rem; }
@media print { section, .card { break-inside: avoid; } body { background: none; } }
"""
)
