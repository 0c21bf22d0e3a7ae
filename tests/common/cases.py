"""Cases of no file, for tests of what is done with them."""


def make_cases(number=10, task="organ", per_patient=1):
    return [
        {"image": f"{task}/{i}.nii.gz", "case": f"{task}_{i}", "task": task}
        | ({"patient": f"p{i // per_patient}"} if per_patient > 1 else {})
        for i in range(number)
    ]


def names(cases):
    return [case["case"] for case in cases]
