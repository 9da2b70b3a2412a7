"""How the page of the API looks: light and dark, wide and narrow."""

STYLE = """
:root{color-scheme:light dark;--ink:#1c2024;--soft:#5b6470;--line:#d9dee4;--back:#fff;--tint:#f4f6f8;--link:#0b62c4;
--post:#0a6b3d;--get:#0b62c4;--good:#0a6b3d;--bad:#a8500a;--worse:#b3261e}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ed;--soft:#9aa5b1;--line:#323a43;--back:#14181c;--tint:#1d2329;
--link:#6fb1ff;--post:#58c98c;--get:#6fb1ff;--good:#58c98c;--bad:#f0a35e;--worse:#ff8a80}}
*{box-sizing:border-box}
html{scroll-behavior:smooth;-webkit-text-size-adjust:100%}
body{margin:0 auto;max-width:76rem;padding:0 1.25rem 4rem;background:var(--back);color:var(--ink);
font:1rem/1.55 system-ui,sans-serif;display:grid;grid-template-columns:15rem minmax(0,1fr);column-gap:3rem}
header{grid-column:1/-1;border-bottom:1px solid var(--line);padding:2rem 0 1rem;margin-bottom:1.5rem}
h1{margin:0;font-size:2rem;line-height:1.2}
.sub{margin:.25rem 0 0;color:var(--soft)}
nav{position:sticky;top:1.5rem;align-self:start;display:flex;flex-direction:column;gap:.1rem;font-size:.925rem}
nav a{padding:.25rem .5rem;border-radius:.375rem;color:var(--ink);text-decoration:none;overflow-wrap:anywhere}
nav a:hover,nav a:focus-visible{background:var(--tint)}
a{color:var(--link)}
main{min-width:0}
section{margin-bottom:3.5rem;scroll-margin-top:1rem}
section>:first-child{margin-top:0}
h2{font-size:1.4rem;line-height:1.3;margin:0 0 .5rem}
h3{font-size:1.05rem;margin:2rem 0 .5rem;scroll-margin-top:1rem}
p,ul{max-width:44rem}
.lead{font-size:1.1rem;margin:.25rem 0 .75rem}
code,pre{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:.875em}
code{background:var(--tint);padding:.1em .3em;border-radius:.25rem;overflow-wrap:anywhere}
h2 code{background:none;padding:0;font-size:1.2rem}
pre{background:var(--tint);border:1px solid var(--line);border-radius:.5rem;padding:.75rem 1rem;overflow-x:auto;
line-height:1.45;margin:.5rem 0}
pre code{background:none;padding:0}
figure{margin:1rem 0}
figcaption{color:var(--soft);font-size:.875rem}
.method{font-size:.8rem;font-weight:700;letter-spacing:.04em;color:var(--post);border:1px solid;border-radius:.375rem;
padding:.1rem .4rem;margin-right:.5rem;vertical-align:.12em}
.get{color:var(--get)}
table{border-collapse:collapse;width:100%;font-size:.925rem;margin:.5rem 0}
th{text-align:left;color:var(--soft);font-weight:600;font-size:.8rem;padding:.4rem .75rem .4rem 0}
td{border-top:1px solid var(--line);padding:.55rem .75rem .55rem 0;vertical-align:top}
td:first-child{white-space:nowrap}
td p{margin:0}
.kind{color:var(--soft);font-size:.85rem}
.must{color:var(--worse);font-size:.8rem}
.s2{color:var(--good)}.s4{color:var(--bad)}.s5{color:var(--worse)}
.s2,.s4,.s5{font-weight:700;font-variant-numeric:tabular-nums}
@media(max-width:52rem){
body{display:block}
nav{position:static;flex-flow:row wrap;margin-bottom:2rem}
nav a{background:var(--tint)}
}
@media(max-width:40rem){
table,tbody,tr,td{display:block}
thead{display:none}
tr{border-top:1px solid var(--line);padding:.6rem 0}
td{border:0;padding:.1rem 0}
td:first-child{white-space:normal}
td[data-head]::before{content:attr(data-head);display:block;color:var(--soft);font-size:.75rem;font-weight:600;
margin-top:.3rem}
}
@media print{nav{display:none}body{display:block}}
"""
