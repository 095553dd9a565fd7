r"""Attention: queries and values that lost a part of their width make do with what is left.

Queries and keys. What counts is their product. For each head a matrix M is found that brings the logits of
the cut model nearest to those of the dense one, on the data (`logits_fit`), and folded into the layer that
makes the queries: weight and bias of the head are multiplied with M'. The keys, which several heads may
share, stay. Where only moves and scales lie between the layer and the product, M is any matrix; with rotary
positions one that turns each pair and scales it, as others would not commute with them (`head_paths`). What
a softmax does not see, a constant for each query, is not counted.

Values. A head's share of the output is W_O o with o = sum over j of p_j W_V x_j, and what acts on the values
acts on o. With C the second moments of o in the dense model (of all query heads that share the values), the
best k numbers to put in place of its e are

    o -> V' C^-1/2 o,      W_O -> W_O C^1/2 V,      V: the k first eigenvectors of C^1/2 W_O' W_O C^1/2

the truncated singular value decomposition of W_O C^1/2, stacked over these heads; the first factor is folded
into the value layer. It needs a value layer whose input lost nothing, of which the dense weights are taken.

Every change is judged on rows that nothing was learned from, by the logits or by the output of the layer
behind the values. Where it brings them no nearer, the weights stay.

Order. `refit` solves what lost inputs anew, for the dense output: before it, "attention" gives it better
inputs, but it needs more rows. A query layer that lost inputs, too, must not be refitted after its queries
were turned: `refit` first there.
"""

import torch
from torch import nn

from secateur.capture.copies import copy_module
from secateur.coupling.layers import layer_of
from secateur.recovery.head_layers import HeadLayers
from secateur.recovery.lockstep import start
from secateur.recovery.queries import QueryJob, query_jobs
from secateur.recovery.step import Recovery, Subject, step
from secateur.recovery.value_heads import ValueJob, value_jobs


@step("attention", needs_data=True)
@torch.no_grad()
def attention(subject: Subject) -> tuple[nn.Module, list[Recovery]]:
    """Turn the queries and replace the values of every attention whose heads lost a part of their width.

    Args:
        subject: The cut model and where it comes from.

    Returns:
        A new model, and for each layer how far the logits, or the output behind the values, were and are from
        those of the dense model.

    Raises:
        CaptureError: Queries, keys or what the heads put out are NaN or infinite.
        PathError: A batch takes another path than the example inputs.
    """
    cut = copy_module(subject.cut)
    graph = subject.groups.graph
    layers = {node.index: found for node in graph.nodes if (found := layer_of(graph, node)) is not None}
    held, dense = HeadLayers(graph, cut), HeadLayers(graph, subject.original)
    queries, notes = query_jobs(subject, held, layers)
    values, others = value_jobs(subject, held, dense, layers)
    notes += others
    jobs: list[QueryJob | ValueJob] = [*queries, *values]
    if not jobs:
        return cut, notes
    jobs.sort(key=lambda job: job.layer.node.index)  # of one layer the queries come first, as they do here
    lockstep = start(subject, cut, [job.layer.node.index for job in jobs], with_dense=True)
    if lockstep.note:
        notes.append(Recovery("attention", "data", "limit", lockstep.note))
    for job in jobs:
        for pair in lockstep.pairs:
            assert pair.dense is not None, "asked for above"
            pair.cut.advance(job.layer.node.index)
            pair.dense.advance(job.layer.node.index)
        notes.append(job.run(lockstep.pairs))
    return cut, notes
