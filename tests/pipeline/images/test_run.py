def test_x(finished_images):
    print((finished_images.path/"log.txt").read_text())
