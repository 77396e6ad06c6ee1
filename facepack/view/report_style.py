"""The style sheet of a report: readable on a phone, light or dark as the reader has it."""

STYLE = """
:root { color-scheme: light dark;
  --paper: #fafafb; --card: #fff; --ink: #181a20; --faint: #5b6170; --rule: #dee1e7;
  --bar: #3565c8; --same: #137a4f; --different: #b8362a; --wrong: #fdf0ee; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #14161b; --card: #1c1f26; --ink: #e8eaf0; --faint: #a0a7b6; --rule: #333843;
  --bar: #7aa2f7; --same: #57c795; --different: #f08a7d; --wrong: #38211f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 1.5rem 1rem 3rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 .5rem; padding-top: .75rem;
  border-top: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 1.25rem 0 .4rem; }
p { margin: .25rem 0 .75rem; max-width: 46rem; }
header p, footer, caption, figcaption { color: var(--faint); }
a { color: var(--bar); }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .6rem;
  margin: 1rem 0; }
.tiles div { background: var(--card); border: 1px solid var(--rule); border-radius: .5rem;
  padding: .6rem .8rem; }
.tiles dt { color: var(--faint); font-size: .85rem; }
.tiles dd { margin: 0; font-size: 1.3rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.strip { display: flex; flex-wrap: wrap; gap: .6rem; }
figure { margin: 0; width: 112px; }
figure img, figure .broken { width: 112px; height: 112px; }
img { object-fit: contain; display: block; background: var(--rule); border-radius: .25rem; }
figcaption { font-size: .72rem; line-height: 1.3; margin-top: .2rem; }
.broken { padding: .35rem; font-size: .7rem; line-height: 1.25; overflow: hidden;
  color: var(--different); border: 1px solid var(--different); border-radius: .25rem;
  background: linear-gradient(to top right, transparent 49.4%, var(--different) 49.5%,
    var(--different) 50.5%, transparent 50.6%),
    linear-gradient(to bottom right, transparent 49.4%, var(--different) 49.5%,
    var(--different) 50.5%, transparent 50.6%), var(--wrong); }
.broken span { background: var(--wrong); }
.pair { display: flex; gap: .3rem; padding: .3rem; border: 2px solid; border-radius: .4rem; }
.same h3, .same .pair { color: var(--same); border-color: var(--same); }
.different h3, .different .pair { color: var(--different); border-color: var(--different); }
.table { overflow-x: auto; margin: .5rem 0 1rem; }
table { border-collapse: collapse; font-size: .9rem; }
caption { text-align: left; font-size: .85rem; padding: .2rem 0; }
th, td { text-align: left; vertical-align: top; padding: .3rem .9rem .3rem 0; font-weight: 400;
  border-bottom: 1px solid var(--rule); min-width: 4rem; }
thead th { color: var(--faint); font-weight: 600; white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.groups { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 29rem), 1fr));
  gap: .8rem; }
.group { display: flex; gap: .8rem; background: var(--card); border: 1px solid var(--rule);
  border-radius: .5rem; padding: .7rem; align-items: flex-start; }
.group > img, .group > .broken { width: 88px; height: 88px; flex: none; }
.group .table { margin: 0; min-width: 0; }
.group tbody th { white-space: nowrap; }
.chart { overflow-x: auto; }
.chart svg { display: block; width: 100%; min-width: 34rem; max-width: 48rem; height: auto;
  font: 11px system-ui, sans-serif; }
.bar { fill: var(--bar); } .grid { stroke: var(--rule); } .axis { stroke: var(--faint); }
svg text { fill: var(--faint); } .mid { text-anchor: middle; } .end { text-anchor: end; }
svg .name { fill: var(--ink); }
details { margin: .5rem 0; } summary { cursor: pointer; padding: .25rem 0; }
footer { margin-top: 3rem; font-size: .85rem; }
"""
