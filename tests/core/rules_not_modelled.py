"""Rules of the semantics reference that no test cites, each with its reason.

A rule stands here or in a test's id or docstring as ``K<number>``, never in both.
"""

NOT_MODELLED = {
    14: "locking: one thread serialises every call, which the rule itself allows",
    15: "a statement that overflow cannot be reached; Python's integers do not overflow",
    57: "history of a patch; what it led to is K42 and K51, which are tested",
    74: "per-cache arrays and a 65535 index belong to a slab allocator that is not emulated",
    85: "a reason why slab pages do not move; nothing to observe",
    87: "whole slab pages of per-memcg caches: nobody has measured what objects cost in 3.8",
    88: "what is not accounted is what no cost table has a kind for",
    92: "what libc and bash do with an errno; the live harness's business, pthread's is in replay",
    95: "the acceptance test of a running harness, not of the core",
    96: "needs the prices of 3.8's slab pages, which nobody has measured; 5.10's replay has it",
    99: "SLUB's double failure needs slab pages of 3.8; 5.10's descriptor tables show the like",
    102: "the OOM report is a kernel log line; the core writes none",
    104: "an argument about cost",
    105: "the enabled cost, in kernel instructions",
    106: "published numbers of a 2012 machine",
    107: "the author's reading of those numbers",
    108: "history of the postings",
    109: "a summary; each difference is cited under its own rule",
    111: "5.16 and later are no profile here",
    112: "cgroup v2 is no profile here",
    113: "how to read the vectors with the stock off; the second model runs that way",
    116: "identity, not path: rmdir and mkdir of one name in the replayed traces show it",
    118: "about live processes; the controller's tests cover it",
}
