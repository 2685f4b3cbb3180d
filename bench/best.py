#!/usr/bin/env python3
"""best.py NAME=METRIC,.. ... -p PEER -j FILE: the best of each peer's medians in report.py's FILE, and PEER's beside it.

A switch may do better with a window or without one; what it is compared with is what it does best.
"""
import argparse, json

ap = argparse.ArgumentParser()
ap.add_argument("names", nargs="+")
ap.add_argument("-p", required=True)
ap.add_argument("-j", required=True)
a = ap.parse_args()
figures = json.load(open(a.j))
for name, metrics in (word.split("=") for word in a.names):
    best = {}
    for metric in metrics.split(","):
        for peer, figure in figures.get(metric, {}).get("peers", {}).items():
            best[peer] = max(best.get(peer, 0), figure["median"])
    print(f"\n{name} ({figures[metrics.split(',')[0]]['unit']})")
    for peer, value in best.items():
        print(f"  {peer:22s} {value:12.0f}   {a.p} is {best.get(a.p, 0) / value if value else float('nan'):6.2f} x")
